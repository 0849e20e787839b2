//! `GET /docs`: a page that shows `/openapi.json` and tries requests, for which Swagger UI is built in.
//!
//! Nothing is fetched from anywhere else, and the page's own policy forbids it: whoever reads it need not be
//! connected to anything but this server. It is the same for everybody, and so it needs no key; requests that are
//! tried from it need theirs.

use crate::gateway::wire::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use std::borrow::Cow;
use std::io::Read;
use std::sync::{Arc, OnceLock};
use utoipa_swagger_ui::{Config, SwaggerFile};

const PAGE: &str = include_str!("docs/index.html");
const START: &str = include_str!("docs/start.js");
/// Of Swagger UI's files, those that the page asks for.
const ASSETS: [&str; 4] = ["favicon-32x32.png", "index.css", "swagger-ui-bundle.js", "swagger-ui.css"];
/// What the page may load and do. Swagger UI draws icons from `data:` addresses.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "Server",
    operation_id = "getDocs",
    summary = "This description as a page",
    description = "Needs no key.",
    responses((status = 200, description = "The page", body = String, content_type = "text/html")),
)]
pub async fn page() -> Response {
    of_page("text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes()))
}

/// What the page is made of.
#[utoipa::path(
    get,
    path = "/docs/{file}",
    tag = "Server",
    operation_id = "getDocsFile",
    summary = "A file of the page",
    description = "Needs no key.",
    params(("file" = String, Path, description = "Its name")),
    responses((status = 200, description = "The file", content(
        (String = "text/javascript"), (String = "text/css"), (String = "image/png")
    ))),
)]
pub async fn file(Path(name): Path<String>, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    if name == "start.js" {
        return Ok(of_page("text/javascript", Bytes::from_static(START.as_bytes())));
    }
    let Some(asset) = ASSETS.contains(&name.as_str()).then(|| asset(&name)).flatten() else {
        return Err(ApiError::unknown_path("GET", uri.path()));
    };
    let takes_gzip = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|coding| coding.trim() == "gzip"));
    let is_packed = asset.gzpipped && takes_gzip;
    let bytes = match (asset.gzpipped && !takes_gzip, asset.bytes) {
        (true, _) => unpacked(&name),
        (false, Cow::Borrowed(bytes)) => Bytes::from_static(bytes),
        (false, Cow::Owned(bytes)) => bytes.into(),
    };
    let mut response = of_page(&asset.content_type, bytes);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_packed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// A file of Swagger UI's. The configuration is that of one which is not served.
fn asset(name: &str) -> Option<SwaggerFile<'static>> {
    utoipa_swagger_ui::serve(name, Arc::new(Config::default())).ok().flatten()
}

/// For who takes no gzip: unpacked once for all, since anybody may ask.
fn unpacked(name: &str) -> Bytes {
    static UNPACKED: OnceLock<[Bytes; ASSETS.len()]> = OnceLock::new();
    let all = UNPACKED.get_or_init(|| {
        ASSETS.map(|name| {
            let mut out = Vec::new();
            let packed = asset(name).map(|asset| asset.bytes).unwrap_or_default();
            GzDecoder::new(&*packed).read_to_end(&mut out).expect("a file that was built in is whole");
            out.into()
        })
    });
    let at = ASSETS.iter().position(|known| *known == name);
    at.map_or_else(Bytes::new, |at| all[at].clone())
}

fn of_page(kind: &str, bytes: Bytes) -> Response {
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::try_from(kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
