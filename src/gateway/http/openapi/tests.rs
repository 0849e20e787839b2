//! The description against the router, and against itself.

use super::super::browser::Browsers;
use super::super::cors::Cors;
use super::super::server::{Entrance, router};
use super::{bases, document};
use crate::config::{self, Config};
use crate::gateway::api::app::{App, RequestConfig};
use crate::gateway::ledger::observe::Observers;
use crate::gateway::route::Routing;
use crate::gateway::target::registry::Registry;
use crate::store::Store;
use arc_swap::ArcSwap;
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;

const METHODS: [&str; 5] = ["get", "post", "delete", "put", "patch"];

/// The server's router with everything that can be on; the folder has its store.
fn whole_router() -> (axum::Router, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = config::Store::Sqlite(folder.path().join("usage.db"));
    let store = Store::open(&place).expect("a store");
    let requests = RequestConfig {
        request_timeout: Duration::from_secs(60),
        total_timeout: Duration::from_secs(600),
        body_bytes_max: 1 << 20,
        text_timeout: Duration::from_secs(10),
        request_memory_bytes: 1 << 26,
        keep_alive: Duration::from_secs(5),
        admin_key_sha256: None,
        observers: Observers::default(),
    };
    let registry = Arc::new(Registry::new(std::iter::empty::<String>()));
    let routing = Routing::new(Config::default(), &[], &registry).expect("a routing");
    let routing = Arc::new(ArcSwap::from_pointee(routing));
    let app = App::new(requests, registry, routing, Some(store)).expect("an app");
    let browsers = Browsers::new(Cors::Off, Ipv4Addr::LOCALHOST.into(), &[]);
    let entrance = Entrance { app: Arc::new(app), browsers: Arc::new(browsers) };
    (router(entrance, &Cors::Off).expect("a router"), folder)
}

/// The paths of a router, as its own `Debug` has them: `RouteId(7): "/v1/models"`.
fn paths_of(router: &axum::Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let (routes, _) = shown.split_once("fallback_router:").expect("its routes, and what is behind them");
    let path = |entry: &str| {
        let (id, rest) = entry.split_once("): \"")?;
        id.parse::<u32>().ok()?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    routes.split("RouteId(").filter_map(path).collect()
}

/// The methods that a path takes: who asks with another is told.
async fn methods_of(router: &mut axum::Router, path: &str) -> BTreeSet<String> {
    let path = path.replace(['{', '}', '*'], "");
    let request = Request::builder().method("TRACE").uri(&path).header("host", "localhost");
    let answer = router.call(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    let allow = answer.headers().get(header::ALLOW).unwrap_or_else(|| panic!("{path}: {answer:?}"));
    let allow = allow.to_str().expect("text").to_lowercase();
    allow.split(',').map(str::to_owned).filter(|method| METHODS.contains(&method.as_str())).collect()
}

#[tokio::test]
async fn every_route_is_described_and_every_description_is_routed() {
    let (mut router, _folder) = whole_router();
    let mut routed = BTreeSet::new();
    for path in paths_of(&router) {
        for method in methods_of(&mut router, &path).await {
            routed.insert(format!("{method} {}", path.replace("{*", "{")));
        }
    }
    assert!(routed.len() > 50, "the router's routes are read: {routed:?}");
    let document = document();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("operations").keys();
        for method in methods.filter(|method| METHODS.contains(&method.as_str())) {
            let bases = bases(path);
            described.extend(bases.iter().map(|base| format!("{method} {base}{path}")));
        }
    }
    let missing: Vec<_> = routed.difference(&described).collect();
    let beyond: Vec<_> = described.difference(&routed).collect();
    assert!(missing.is_empty(), "routes without #[utoipa::path] in openapi.rs (or bases): {missing:?}");
    assert!(beyond.is_empty(), "described, and not served: {beyond:?}");
}

#[test]
fn operations_have_ids_tags_summaries_and_answers() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            if method == "servers" {
                continue;
            }
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{id}");
            assert!(operation["tags"][0].is_string(), "{id}");
            if let Some(body) = operation.get("requestBody") {
                assert!(body["content"]["application/json"]["example"].is_object(), "{id} has no example");
            }
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{id}");
            for (status, response) in responses {
                let content = response["content"].as_object();
                assert!(content.is_some_and(|content| !content.is_empty()), "{method} {path}: {status}");
            }
        }
    }
}

#[test]
fn every_reference_leads_to_a_schema() {
    let document = document();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    let pointer = to.strip_prefix('#').expect("within the document");
                    assert!(document.pointer(pointer).is_some(), "{to}");
                }
                open.extend(map.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}
