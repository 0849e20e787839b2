//! Keeps web pages that a user visits from using this server through the user's browser.
//!
//! A page may send a POST to any address that its visitor's machine reaches; what the browser withholds
//! is the answer, and by then the tokens are spent. Three rules stand in its way:
//!
//! - **`Origin`**, which browsers set and pages cannot change, must be this server's own or one that
//!   `--cors-origin` names. Who sends none is no page.
//! - **`Content-Type`** of a POST with a body must be JSON. A browser sends that across origins only after it
//!   has asked (a preflight), so that not even one that sets no `Origin` gets through.
//! - **`Host`** must be one of this server's names, where it asks for no keys. A page whose own name is
//!   made to lead to this address (DNS rebinding) is of one origin with it, and may read the answers too.
//!   Where keys are asked for, any name will do: a page has no key, and who serves under a public name or
//!   behind a proxy need not list its names. An address is no name that somebody else could rebind, so
//!   that a server that is open to its network takes any; on loopback only loopback's own are let in.
//!
//! `/livez`, `/readyz` and `/health` are kept to the same rules: probes send no `Origin`, and an address or
//! nothing as `Host`; and why a model failed is nothing for a page to read.

use super::cors::Cors;
use crate::gateway::wire::error::ApiError;
use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use std::net::{IpAddr, Ipv6Addr};

/// What requests of browsers are measured by.
#[derive(Debug)]
pub struct Browsers {
    cors: Cors,
    /// Where the server listens.
    bound: IpAddr,
    /// Further names, in lower case.
    hosts: Vec<String>,
}

impl Browsers {
    /// Pages of `cors` may send requests, and requests may be for the address and for `hosts`.
    pub fn new(cors: Cors, bound: IpAddr, hosts: &[String]) -> Self {
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { cors, bound: bound.to_canonical(), hosts }
    }

    /// Whether a request may be a page's doing. `needs_key` says whether it needs one.
    ///
    /// # Errors
    /// 403 or 415, with the option that allows it.
    pub fn check(&self, request: &Request, needs_key: bool) -> Result<(), ApiError> {
        let headers = request.headers();
        let hosts = asked_for(request);
        if !needs_key && let Some(host) = hosts.iter().find(|host| !self.is_ours(host)) {
            return Err(ApiError::foreign_host(host));
        }
        let origins = headers.get_all(header::ORIGIN).iter();
        for origin in origins.map(|origin| String::from_utf8_lossy(origin.as_bytes())) {
            if !self.may_call(&origin) && !hosts.iter().any(|host| is_of(&origin, host)) {
                return Err(ApiError::foreign_origin(&origin));
            }
        }
        let has_body = request.method() == Method::POST && !request.body().is_end_stream();
        if has_body { check_type(headers) } else { Ok(()) }
    }

    fn may_call(&self, origin: &str) -> bool {
        match &self.cors {
            Cors::Off => false,
            Cors::Any => true,
            Cors::Origins(origins) => origins.iter().any(|it| it == origin),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") || self.hosts.contains(&name) {
            return true;
        }
        let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6),
            None => name.parse(),
        };
        address.is_ok_and(|address| {
            let address = address.to_canonical();
            !self.bound.is_loopback() || address.is_loopback() || address.is_unspecified()
        })
    }
}

/// The hosts that a request is for: one, of an honest client.
fn asked_for(request: &Request) -> Vec<String> {
    let headers = request.headers().get_all(header::HOST).iter();
    let named = headers.map(|host| String::from_utf8_lossy(host.as_bytes()).trim().to_owned());
    // A request to a proxy names it there.
    let in_url = request.uri().authority().map(|authority| authority.as_str().to_owned());
    named.chain(in_url).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a page of this origin came from that host. By TLS or without: a proxy may stand in between.
fn is_of(origin: &str, host: &str) -> bool {
    let Some((scheme, of)) = origin.split_once("://") else { return false };
    // Browsers leave a scheme's own port out.
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    of.eq_ignore_ascii_case(host.strip_suffix(usual).unwrap_or(host))
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    let kind = given.unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::wrong_content_type(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn check(browsers: &Browsers, needs_key: bool, headers: &[(&str, &str)], body: &'static str) -> u16 {
        let mut request = Request::post("/v1/chat/completions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        browsers.check(&request, needs_key).map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn foreign_origins_are_refused() {
        let origins = Cors::Origins(vec!["https://app.example.org".into()]);
        let one = Browsers::new(origins, [127, 0, 0, 1].into(), &[]);
        let any = Browsers::new(Cors::Any, [127, 0, 0, 1].into(), &[]);
        let host = ("host", "127.0.0.1:8000");
        for (origin, expected) in [
            ("https://app.example.org", 200),
            ("http://127.0.0.1:8000", 200),
            ("https://127.0.0.1:8000", 200),
            ("http://127.0.0.1", 403),
            ("http://127.0.0.1:3000", 403),
            ("http://localhost:8000", 403),
            ("http://app.example.org", 403),
            ("https://app.example.org.evil.org", 403),
            ("https://evil.example", 403),
            ("null", 403),
            ("", 403),
            ("file://", 403),
        ] {
            for needs_key in [false, true] {
                assert_eq!(
                    check(&one, needs_key, &[JSON, host, ("origin", origin)], "{}"),
                    expected,
                    "{origin}"
                );
                assert_eq!(check(&any, needs_key, &[JSON, host, ("origin", origin)], "{}"), 200, "{origin}");
            }
        }
        let two = [JSON, host, ("origin", "http://127.0.0.1:8000"), ("origin", "https://evil.example")];
        assert_eq!(check(&one, false, &two, "{}"), 403);
        // A scheme's own port is left out of an origin.
        let own = [JSON, ("host", "api.example.org:443"), ("origin", "https://api.example.org")];
        assert_eq!(check(&one, true, &own, "{}"), 200);
    }

    #[test]
    fn without_keys_the_host_must_be_ours() {
        let loopback = Browsers::new(Cors::Any, [127, 0, 0, 1].into(), &["My.Box".into()]);
        let open = Browsers::new(Cors::Any, [0, 0, 0, 0].into(), &[]);
        for (host, on_loopback, in_the_open) in [
            ("localhost", 200, 200),
            ("LOCALHOST:8000", 200, 200),
            ("localhost.:8000", 200, 200),
            ("ui.localhost:8000", 200, 200),
            ("127.0.0.1", 200, 200),
            ("127.8.9.10:1", 200, 200),
            ("[::1]:8000", 200, 200),
            ("[::1]", 200, 200),
            ("[::ffff:127.0.0.1]:8000", 200, 200),
            ("0.0.0.0:8000", 200, 200),
            ("my.box:8000", 200, 403),
            ("192.0.2.7:8000", 403, 200),
            ("[2001:db8::1]:8000", 403, 200),
            ("evil.example", 403, 403),
            ("localhost.evil.example:8000", 403, 403),
            ("127.0.0.1.evil.example", 403, 403),
            ("127.0.0.1@evil.example", 403, 403),
            ("", 403, 403),
        ] {
            assert_eq!(check(&loopback, false, &[JSON, ("host", host)], "{}"), on_loopback, "{host}");
            assert_eq!(check(&open, false, &[JSON, ("host", host)], "{}"), in_the_open, "{host}");
            assert_eq!(check(&loopback, true, &[JSON, ("host", host)], "{}"), 200, "{host} with keys");
        }
        assert_eq!(check(&loopback, false, &[JSON], "{}"), 200);
        let two = [JSON, ("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check(&loopback, false, &two, "{}"), 403);
    }

    #[test]
    fn a_body_needs_the_type_of_json() {
        let browsers = Browsers::new(Cors::Off, [127, 0, 0, 1].into(), &[]);
        for (kind, expected) in [
            ("application/json", 200),
            ("Application/JSON; charset=utf-8", 200),
            ("application/vnd.api+json", 200),
            ("text/plain", 415),
            ("text/plain; application/json", 415),
            ("text/x+json", 415),
            ("application/x-www-form-urlencoded", 415),
            ("multipart/form-data; boundary=x", 415),
            ("application/jsonp", 415),
            ("", 415),
        ] {
            assert_eq!(check(&browsers, true, &[("content-type", kind)], "{}"), expected, "{kind}");
        }
        assert_eq!(check(&browsers, true, &[], "{}"), 415);
        assert_eq!(check(&browsers, true, &[], ""), 200);
    }
}
