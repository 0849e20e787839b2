//! Which web pages may call this server from a browser (Cross-Origin Resource Sharing).

use super::server::REQUEST_ID;
use axum::http::{HeaderValue, Method, header};
use std::io;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

/// Which web pages may call this server from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// None.
    Off,
    /// All.
    Any,
    /// Those of these origins (`https://example.org`).
    Origins(Vec<String>),
}

/// What tells browsers; None: nothing does.
///
/// # Errors
/// An origin that is not a header value.
pub fn layer(cors: &Cors) -> io::Result<Option<CorsLayer>> {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        // Not `*`, which does not cover Authorization.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([REQUEST_ID, header::RETRY_AFTER]);
    match cors {
        Cors::Off => Ok(None),
        Cors::Any => Ok(Some(layer.allow_origin(Any))),
        Cors::Origins(origins) => {
            let parse = |origin: &String| {
                HeaderValue::from_str(origin).map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidInput, format!("`{origin}` is not an origin"))
                })
            };
            let origins = origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
            Ok(Some(layer.allow_origin(origins)))
        }
    }
}
