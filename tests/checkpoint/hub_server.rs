//! A small server on a local port that speaks as much of the hub's API as a download needs:
//! a repository's files with sizes and hashes, `resolve` with ranges, redirects to large-file
//! storage, and faults on request.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub const REPO: &str = "org/model";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the repository.
#[derive(Clone)]
pub struct HubFile {
    pub bytes: Vec<u8>,
    /// In large-file storage: redirected, with a sha256 in the listing.
    pub lfs: bool,
}

/// What the server does wrong.
#[derive(Default)]
pub struct Faults {
    /// Close the connection after so many bytes of the file's body; used up front to back.
    pub cuts: Vec<(String, usize)>,
    /// Answer requests whose path contains the text with that status.
    pub statuses: Vec<(String, u16)>,
    /// The listing states another sha256 for the file.
    pub wrong_hash: Option<String>,
    /// Accept the request for the file and never answer.
    pub silent: Option<String>,
    /// Without this token everything is 401.
    pub token: Option<String>,
    /// Requests whose path contains the text are redirected there.
    pub redirects: Vec<(String, String)>,
    /// The answer about the repository, instead of the true one.
    pub listing: Option<String>,
    /// Partial answers begin at this byte, whatever was asked for.
    pub wrong_range: Option<usize>,
    /// Ranges are not understood: every answer is the whole file.
    pub no_ranges: bool,
}

pub struct HubServer {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    endpoint: String,
    files: BTreeMap<String, HubFile>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<String>>,
    /// Path and `authorization` of every request.
    authorizations: Mutex<Vec<(String, Option<String>)>>,
}

impl HubServer {
    pub fn start(files: &[(&str, &[u8], bool)]) -> HubServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let files = files
            .iter()
            .map(|(name, bytes, lfs)| (name.to_string(), HubFile { bytes: bytes.to_vec(), lfs: *lfs }))
            .collect();
        let state = Arc::new(State {
            endpoint: endpoint.clone(),
            files,
            faults: Mutex::default(),
            requests: Mutex::default(),
            authorizations: Mutex::default(),
        });
        let shared = state.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || state.serve(stream));
            }
        });
        HubServer { endpoint, state }
    }

    pub fn fail(&self, faults: Faults) {
        *self.state.faults.lock().expect("lock") = faults;
    }

    /// "path range" of every request so far; the list is emptied.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().expect("lock"))
    }

    /// Path and `authorization` of every request so far; the list is emptied.
    pub fn authorizations(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.state.authorizations.lock().expect("lock"))
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Like git's blob ids only in shape: 40 hexadecimal digits.
fn blob_id(bytes: &[u8]) -> String {
    hash(bytes)[..40].to_owned()
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let target = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let header = |name: &str| {
            lines[1..].iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let range = header("range");
        self.requests.lock().expect("lock").push(format!("{target} {}", range.clone().unwrap_or_default()));
        let authorization = header("authorization");
        self.authorizations.lock().expect("lock").push((target.clone(), authorization.clone()));
        self.answer(stream, &target, range, authorization);
    }

    fn answer(&self, stream: TcpStream, target: &str, range: Option<String>, authorization: Option<String>) {
        let status = {
            let faults = self.faults.lock().expect("lock");
            let unauthorized = faults
                .token
                .as_ref()
                .is_some_and(|token| authorization.as_deref() != Some(&format!("Bearer {token}")));
            let fault = faults.statuses.iter().find(|(path, _)| target.contains(path.as_str()));
            if unauthorized { Some(401) } else { fault.map(|(_, status)| *status) }
        };
        if let Some(status) = status {
            return respond(stream, status, &[], b"no");
        }
        let redirect = {
            let faults = self.faults.lock().expect("lock");
            let redirect = faults.redirects.iter().find(|(path, _)| target.contains(path.as_str()));
            redirect.map(|(_, to)| to.clone())
        };
        if let Some(to) = redirect {
            return respond(stream, 302, &[("Location", to)], b"");
        }
        if target.starts_with(&format!("/api/models/{REPO}/revision/main")) {
            return respond(stream, 200, &[], self.listing().as_bytes());
        }
        let resolve = format!("/{REPO}/resolve/{COMMIT}/");
        let (name, direct) = match (target.strip_prefix(&resolve), target.strip_prefix("/storage/")) {
            (Some(name), _) => (name, false),
            // A signature stands behind the question mark.
            (_, Some(name)) => (name.split('?').next().unwrap_or_default(), true),
            _ => return respond(stream, 404, &[], b"no"),
        };
        let Some(file) = self.files.get(name) else { return respond(stream, 404, &[], b"no") };
        let commit = ("X-Repo-Commit", COMMIT.to_owned());
        if file.lfs && !direct {
            let location = format!("{}/storage/{name}", self.endpoint);
            let linked = ("X-Linked-Etag", format!("\"{}\"", hash(&file.bytes)));
            return respond(stream, 302, &[commit, linked, ("Location", location)], b"");
        }
        self.send_file(stream, name, file, range, commit);
    }

    fn send_file(
        &self,
        mut stream: TcpStream,
        name: &str,
        file: &HubFile,
        range: Option<String>,
        commit: (&str, String),
    ) {
        let total = file.bytes.len();
        let start = range.map(|range| {
            let (start, end) = range.trim_start_matches("bytes=").split_once('-').expect("range");
            assert_eq!(end, "", "the rest is asked for");
            start.parse::<usize>().expect("start")
        });
        let (silent, cut, start) = {
            let mut faults = self.faults.lock().expect("lock");
            let cut = faults.cuts.iter().position(|(cut, _)| cut == name);
            let start = start.filter(|_| !faults.no_ranges);
            let start = start.map(|start| faults.wrong_range.unwrap_or(start));
            (faults.silent.as_deref() == Some(name), cut.map(|at| faults.cuts.remove(at).1), start)
        };
        if start.is_some_and(|start| start >= total) {
            return respond(stream, 416, &[], b"");
        }
        if silent {
            std::thread::sleep(std::time::Duration::from_secs(20));
            return;
        }
        let body = &file.bytes[start.unwrap_or(0)..];
        let mut headers = vec![commit, ("ETag", format!("\"{}\"", blob_id(&file.bytes)))];
        if let Some(start) = start {
            headers.push(("Content-Range", format!("bytes {start}-{}/{total}", total - 1)));
        }
        let sent = cut.unwrap_or(body.len()).min(body.len());
        let status = if start.is_some() { 206 } else { 200 };
        let _ = stream.write_all(head(status, &headers, body.len()).as_bytes());
        let _ = stream.write_all(&body[..sent]);
    }

    fn listing(&self) -> String {
        if let Some(listing) = &self.faults.lock().expect("lock").listing {
            return listing.clone();
        }
        let wrong = self.faults.lock().expect("lock").wrong_hash.clone();
        let siblings = self.files.iter().map(|(name, file)| {
            let hash = if wrong.as_ref() == Some(name) { "0".repeat(64) } else { hash(&file.bytes) };
            let mut entry = serde_json::json!({
                "rfilename": name, "size": file.bytes.len(), "blobId": blob_id(&file.bytes),
            });
            if file.lfs {
                entry["lfs"] =
                    serde_json::json!({"sha256": hash, "size": file.bytes.len(), "pointerSize": 127});
            }
            entry
        });
        serde_json::json!({"sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()}).to_string()
    }
}

fn head(status: u16, headers: &[(&str, String)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

fn respond(mut stream: TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) {
    let _ = stream.write_all(head(status, headers, body.len()).as_bytes());
    let _ = stream.write_all(body);
}
