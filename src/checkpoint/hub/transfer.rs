//! Requests to the hub, and to wherever it sends them on.
//!
//! Invariants: HF_TOKEN, and a user name and password in HF_ENDPOINT, go to the scheme, host and port of
//! the endpoint and nowhere else. A redirect that leaves them goes on without, and stays without when it
//! leads back; one from https to http is not followed at all. Where the hub sends us is shown without its
//! query, which may be a signature.

use super::{CheckpointError, HubSource, PullOptions};
use crate::blocking_http::{BlockingAnswer, BlockingClient, RequestError};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use hyper::{HeaderMap, Method, Request, Uri};
use std::time::Duration;
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one request about a repository, connecting included, and for its answer.
const INFO_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest repositories list some thousand files, at about 300 bytes each.
const INFO_BYTES_MAX: usize = 32 << 20;
/// Hubs redirect once or twice: to a renamed repository, and to where the file is stored.
const REDIRECTS_MAX: usize = 10;

/// Why a request brought nothing, or not all of it.
#[derive(Debug)]
pub(super) enum TransferError {
    /// An answer with another status than success.
    Status(u16),
    /// What the hub, or the storage behind it, says is refused by us; asking again is of no use.
    Refused(String),
    /// No connection to the host came about.
    Unreachable { host: String, reason: String },
    /// The transfer ended before its end.
    Broken(String),
    /// Nothing came for so long.
    Silent(Duration),
    /// A file of ours cannot be written.
    Local(CheckpointError),
}

impl TransferError {
    /// Whether another attempt may bring more.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status(status) => *status >= 500 || *status == 429,
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Refused(_) | Self::Silent(_) | Self::Local(_) => false,
        }
    }
}

impl From<RequestError> for TransferError {
    /// Of an answer's body.
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::TimedOut(time) => Self::Silent(time),
            RequestError::Failed(reason) => Self::Broken(reason),
            RequestError::TooLong(_) => Self::Refused(error.to_string()),
        }
    }
}

/// One hub.
pub(super) struct Hub {
    client: BlockingClient,
    endpoint: Url,
    /// For the endpoint alone.
    authorization: Option<HeaderValue>,
}

impl Hub {
    /// As the options say.
    pub fn new(options: &PullOptions) -> Result<Self, CheckpointError> {
        let invalid = |reason: &str| CheckpointError::Hub(reason.into());
        // It may hold a password, so that it is not repeated.
        let endpoint = Url::parse(&options.endpoint).ok().filter(Url::has_host);
        let mut endpoint =
            endpoint.ok_or_else(|| invalid("HF_ENDPOINT is no URL: http://HOST or https://HOST"))?;
        let authorization = match (&options.token, endpoint.username(), endpoint.password()) {
            (Some(token), ..) => Some(format!("Bearer {token}")),
            (None, "", None) => None,
            (None, user, password) => {
                let decoded = |text| percent_decoded(text).unwrap_or_default();
                Some(basic(&decoded(user), &decoded(password.unwrap_or_default())))
            }
        };
        let authorization = match authorization.map(HeaderValue::try_from) {
            None => None,
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                Some(value)
            }
            Some(Err(_)) => return Err(invalid("HF_TOKEN holds characters that no token has")),
        };
        let _ = endpoint.set_username("");
        let _ = endpoint.set_password(None);
        let client = BlockingClient::new(CONNECT_TIMEOUT).map_err(CheckpointError::Hub)?;
        Ok(Self { client, endpoint, authorization })
    }

    /// What the hub says about a repository's files.
    pub fn info(&self, source: &HubSource) -> Result<String, TransferError> {
        let mut url = self.url(["api", "models"].into_iter().chain(source.repo.split('/')));
        if let Ok(mut path) = url.path_segments_mut() {
            path.push("revision").push(&source.revision);
        }
        url.set_query(Some("blobs=true"));
        let mut answer = self.get(url, &HeaderMap::new(), INFO_TIMEOUT)?;
        match answer.status().as_u16() {
            200 => {}
            status => return Err(TransferError::Status(status)),
        }
        let bytes = answer.bytes(INFO_BYTES_MAX, INFO_TIMEOUT)?;
        String::from_utf8(bytes)
            .map_err(|_| TransferError::Refused("the answer about the repository is no text".into()))
    }

    /// A file at a commit, from this byte on if the server can do that: second is where the answer begins.
    pub fn file(
        &self,
        (repo, commit, name): (&str, &str, &str),
        from: u64,
        timeout: Duration,
    ) -> Result<(BlockingAnswer<'_>, u64), TransferError> {
        let url = self.url(repo.split('/').chain(["resolve", commit]).chain(name.split('/')));
        let mut headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        if from > 0 {
            let range = HeaderValue::try_from(format!("bytes={from}-")).expect("digits");
            headers.insert(RANGE, range);
        }
        let answer = self.get(url, &headers, timeout)?;
        match answer.status().as_u16() {
            200 => Ok((answer, 0)),
            206 if range_start(answer.headers()) == Some(from) => Ok((answer, from)),
            206 => Err(TransferError::Refused(
                "the answer is another part of the file than was asked for".into(),
            )),
            status => Err(TransferError::Status(status)),
        }
    }

    fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Follows redirects. The answer has whatever other status.
    fn get(
        &self,
        mut url: Url,
        headers: &HeaderMap,
        timeout: Duration,
    ) -> Result<BlockingAnswer<'_>, TransferError> {
        let mut authorization = self.authorization.as_ref();
        for _ in 0..=REDIRECTS_MAX {
            let uri = Uri::try_from(url.as_str())
                .map_err(|_| TransferError::Refused(format!("cannot ask for {}", shown(&url))))?;
            let mut request = Request::new(hyper::body::Bytes::new());
            (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
                (Method::GET, uri, headers.clone());
            authorization = authorization.filter(|_| url.origin() == self.endpoint.origin());
            if let Some(value) = authorization {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let answer = self.client.send(request, timeout).map_err(|error| match error {
                RequestError::TimedOut(time) => TransferError::Silent(time),
                error => TransferError::Unreachable {
                    host: url.host_str().unwrap_or_default().to_owned(),
                    reason: error.to_string(),
                },
            })?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            url = next_url(&url, answer.headers())?;
        }
        Err(TransferError::Refused(format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    /// Whether that is the endpoint's host.
    pub fn is_own_host(&self, host: &str) -> bool {
        self.endpoint.host_str() == Some(host)
    }
}

/// Where an answer redirects to.
fn next_url(from: &Url, headers: &HeaderMap) -> Result<Url, TransferError> {
    let refused = |reason: String| TransferError::Refused(reason);
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| refused("it redirects without saying where to".into()))?;
    let mut url = from.join(location).map_err(|_| refused("it redirects to what is no URL".into()))?;
    // They would be somebody's; nobody has told them to us.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    match (from.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") if url.has_host() => Ok(url),
        ("https", "http") => {
            Err(refused(format!("it redirects from https to {}, where anybody may listen", shown(&url))))
        }
        _ => Err(refused(format!("it redirects to {}, which is not on the web", shown(&url)))),
    }
}

/// Without its query, and of bounded length.
fn shown(url: &Url) -> String {
    let text = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
    text.chars().take(200).collect()
}

/// Where a partial answer begins.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// `Basic` credentials.
fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for chunk in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

/// As in a URL's user name; None where that is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let pair = more.get(..2).filter(|_| *first == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_endpoint_is_sent_as_http_has_it() {
        // From RFC 7617.
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic("a", "b1"), "Basic YTpiMQ==");
        assert_eq!(basic("a", ""), "Basic YTo=");
        assert_eq!(percent_decoded("a%40b%2fc%"), Some("a@b/c%".into()));
    }

    #[test]
    fn redirects_lead_to_http_and_never_down_from_https() {
        let next = |from: &str, location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(location).unwrap())]);
            next_url(&Url::parse(from).unwrap(), &headers).map(String::from)
        };
        let to = |from: &str, location: &str| next(from, location).unwrap();
        assert_eq!(to("http://a.test/x/y", "/z?q=1#f"), "http://a.test/z?q=1");
        assert_eq!(to("https://a.test/x/y", "//b.test/z"), "https://b.test/z");
        assert_eq!(to("http://a.test/x", "https://me:it@b.test/"), "https://b.test/");
        for (from, location) in [
            ("https://a.test/", "http://a.test/?secret"),
            ("http://a.test/", "file:///etc/passwd"),
            ("http://a.test/", "ftp://a.test/x"),
            ("http://a.test/", "data:,secret"),
            ("http://a.test/", "http://"),
        ] {
            let TransferError::Refused(told) = next(from, location).unwrap_err() else {
                panic!("{location} is asked")
            };
            assert!(!told.contains("secret") || location.starts_with("data"), "{told}");
        }
    }
}
