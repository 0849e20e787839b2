//! Upstreams over TLS, and behind the proxy that the environment names.

use super::{Gateway, chat, start_with};
use crate::support::upstream::{TEXT, Upstream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// `ca.pem`, and `server.pem` with its key for localhost, by openssl.
pub fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let arguments = arguments.split(' ');
        let done = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {new} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    openssl(&format!("req {new} -subj /CN=localhost -keyout server.key -out server.csr"));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").expect("a file");
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
}

/// Ends TLS in front of the mock; its port.
async fn tls(folder: &Path, upstream: &Upstream) -> u16 {
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let to = upstream.url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut upstream = TcpStream::connect(to).await.expect("the mock");
                let _ = copy_bidirectional(&mut stream, &mut upstream).await;
            });
        }
    });
    port
}

/// Tunnels to localhost, whatever host it is asked for; its port and the heads of what it was asked.
async fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heads = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                let (mut stream, mut head) = (BufReader::new(stream), String::new());
                while !head.ends_with("\r\n\r\n") {
                    stream.read_line(&mut head).await.expect("a head");
                }
                let port = head.split([':', ' ']).nth(2).expect("a port").to_owned();
                heads.lock().unwrap().push(head);
                let mut upstream = TcpStream::connect(format!("127.0.0.1:{port}")).await.expect("a target");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("sent");
                let _ = copy_bidirectional(&mut stream, &mut upstream).await;
            });
        }
    });
    (port, asked)
}

fn gateway(config: &str, environment: &[(&str, &str)]) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("novastack.yaml"), config).expect("a file");
    let none =
        [("HTTP_PROXY", ""), ("http_proxy", ""), ("HTTPS_PROXY", ""), ("https_proxy", ""), ("NO_PROXY", "")];
    start_with(folder, &[], &[&none, environment].concat())
}

#[tokio::test]
async fn https_upstreams_and_proxies() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let upstream = Upstream::start().await;
    let port = tls(folder.path(), &upstream).await;
    let plain = upstream.url.rsplit(':').next().expect("a port").to_owned();
    let config = format!(
        "providers:\n  tls: {{ format: openai, base_url: \"https://localhost:{port}/v1\" }}\n\
         \x20 plain: {{ format: openai, base_url: \"http://upstream.test:{plain}/v1\" }}\n\
         models: {{ tls: {{ provider: tls }}, plain: {{ provider: plain }} }}\n"
    );
    let ca = folder.path().join("ca.pem").display().to_string();
    let trusts = [("SSL_CERT_FILE", ca.as_str())];
    let ask = async |gateway: &Gateway, model: &str| {
        let answer = gateway.post("/v1/chat/completions", &[], &chat(model, true)).await;
        (answer.status, if answer.status == 200 { answer.says() } else { answer.text })
    };
    let well = (200, TEXT.to_owned());

    assert_eq!(ask(&gateway(&config, &trusts), "tls").await, well);
    let (status, text) = ask(&gateway(&config, &[]), "tls").await;
    assert_eq!((status, text.contains("cannot be reached")), (502, true), "{text}");

    let (proxy, asked) = proxy().await;
    let url = format!("http://me:pass@127.0.0.1:{proxy}");
    let proxies = [("HTTPS_PROXY", url.as_str()), ("HTTP_PROXY", url.as_str())];
    let through = gateway(&config, &[&trusts[..], &proxies].concat());
    assert_eq!(ask(&through, "tls").await, well);
    assert_eq!(ask(&through, "plain").await, well);
    // Connections are kept.
    assert_eq!(ask(&through, "tls").await, well);
    let heads = std::mem::take(&mut *asked.lock().unwrap());
    let first: Vec<&str> = heads.iter().filter_map(|head| head.lines().next()).collect();
    let expected =
        [format!("CONNECT localhost:{port} HTTP/1.1"), format!("CONNECT upstream.test:{plain} HTTP/1.1")];
    assert_eq!(first, expected);
    // "me:pass"
    assert!(heads.iter().all(|head| head.to_lowercase().contains("proxy-authorization: basic bwu6cgfzcw==")));

    let around = gateway(&config, &[&trusts[..], &proxies, &[("NO_PROXY", "localhost")]].concat());
    assert_eq!(ask(&around, "tls").await, well);
    assert!(asked.lock().unwrap().is_empty());
}

/// A proxy that cannot be used is told of at the start.
#[tokio::test]
async fn a_proxy_over_tls_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("novastack.yaml");
    std::fs::write(&path, "providers: { p: { format: openai, base_url: \"https://example.org\" } }\nmodels: { m: { provider: p } }\n")
        .expect("a file");
    let arguments = ["--config", &path.display().to_string()];
    let environment = [("HTTPS_PROXY", "https://proxy.test:3128"), ("NO_PROXY", "")];
    let log = crate::support::server::Server::try_start_with(&arguments, &environment);
    let log = log.err().expect("it ends");
    assert!(log.contains("provider p") && log.contains("only http:// is spoken"), "{log}");
}
