//! TLS of the listener, by a client that checks the certificate.

use super::https::certificates;
use super::{Gateway, begun_stream, chat, fill, start};
use crate::support::server::Server;
use crate::support::upstream::{Act, TEXT, Upstream, stream_head};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONFIG: &str = "
providers: { up: { format: openai, base_url: @OPENAI/v1, max_concurrency: 1 } }
models: { m: { provider: up }, hangs: { provider: up } }
";

/// A client that trusts the authority of that folder.
fn connector(folder: &Path) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).expect("an authority")).expect("trusted");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn connect(gateway: &Gateway, folder: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(gateway.server.url.trim_start_matches("https://")).await?;
    connector(folder).connect(ServerName::try_from("localhost").expect("a name"), stream).await
}

fn certificate(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
}

/// Asks for an answer, and reads until it has this.
async fn ask(stream: &mut TlsStream<TcpStream>, model: &str, until: &str) -> String {
    let body = chat(model, true).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(until) {
        let read = stream.read(&mut piece).await.expect("more");
        assert!(read > 0, "it ends early: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Puts the certificate of one folder in the place of another's.
fn replace(from: &Path, to: &Path) {
    for name in ["server.key", "server.pem"] {
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

#[tokio::test]
async fn the_listener_speaks_tls_and_takes_a_new_certificate() {
    let (served, renewed) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    certificates(served.path());
    certificates(renewed.path());
    let upstream = Upstream::start().await;
    let [pem, key] = ["server.pem", "server.key"].map(|name| served.path().join(name).display().to_string());
    // In the configuration's words; the next test has the options.
    let config = format!("server: {{ tls: {{ cert: \"{pem}\", key: \"{key}\" }} }}\n{CONFIG}");
    let gateway = start(&fill(&config, &upstream, &upstream), &[]);
    assert!(gateway.server.url.starts_with("https://"), "{}", gateway.server.url);
    let mut first = connect(&gateway, served.path()).await.expect("TLS");
    assert_eq!(first.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let text = ask(&mut first, "m", "data: [DONE]").await;
    assert!(text.starts_with("HTTP/1.1 200") && TEXT.split(' ').all(|word| text.contains(word)), "{text}");
    assert!(connect(&gateway, renewed.path()).await.is_err(), "of another authority");

    let before = certificate(&first);
    replace(renewed.path(), served.path());
    gateway.server.log_line(&["the new certificate is served"]).await;
    let mut second = connect(&gateway, renewed.path()).await.expect("TLS");
    assert_ne!(certificate(&second), before);
    ask(&mut second, "m", "data: [DONE]").await;
    // Connections that stand keep theirs.
    ask(&mut first, "m", "data: [DONE]").await;

    std::fs::write(&pem, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
    let line = gateway.server.log_line(&["the certificate before is still served"]).await;
    assert!(line.contains("server.pem"), "{line}");
    let third = connect(&gateway, renewed.path()).await.expect("TLS");
    assert_eq!(certificate(&third), certificate(&second));
}

#[tokio::test]
async fn over_tls_who_leaves_is_noticed_and_who_speaks_none_is_let_go() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let upstream = Upstream::start().await;
    upstream.always("hangs", vec![Act::Send(stream_head()), Act::Send(begun_stream()), Act::Hang]);
    let [pem, key] = ["server.pem", "server.key"].map(|name| folder.path().join(name).display().to_string());
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--tls-cert", &pem, "--tls-key", &key]);
    let mut leaves = connect(&gateway, folder.path()).await.expect("TLS");
    ask(&mut leaves, "hangs", "data: ").await;
    let mut stays = connect(&gateway, folder.path()).await.expect("TLS");
    let busy = ask(&mut stays, "m", "\r\n\r\n").await;
    assert!(busy.starts_with("HTTP/1.1 429"), "{busy}");
    drop(leaves);
    let mut free = String::new();
    for _ in 0..100 {
        let mut again = connect(&gateway, folder.path()).await.expect("TLS");
        free = ask(&mut again, "m", "\r\n\r\n").await;
        if free.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(free.starts_with("HTTP/1.1 200"), "{free}");
    let mut plain =
        TcpStream::connect(gateway.server.url.trim_start_matches("https://")).await.expect("connected");
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), plain.read_to_end(&mut answer)).await;
    assert!(end.is_ok() && !answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_served_is_told_at_the_start() {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    certificates(folder.path());
    certificates(other.path());
    std::fs::write(folder.path().join("empty"), "").expect("written");
    std::fs::write(folder.path().join("novastack.yaml"), CONFIG.replace("@OPENAI", "http://127.0.0.1:9"))
        .expect("written");
    let at = |folder: &Path, name: &str| folder.join(name).display().to_string();
    let (here, there) = (folder.path(), other.path());
    let config = at(here, "novastack.yaml");
    for (pem, key, words) in [
        (at(here, "server.pem"), at(there, "server.key"), "not a certificate of the key in"),
        (at(here, "empty"), at(here, "server.key"), "no certificate in PEM"),
        (at(here, "server.pem"), at(here, "ca.pem"), "no private key in PEM"),
        (at(here, "none.pem"), at(here, "server.key"), "none.pem: cannot be read"),
        (at(here, ""), at(here, "server.key"), "is a folder, not a regular file"),
    ] {
        let log = Server::try_start(&["--config", &config, "--tls-cert", &pem, "--tls-key", &key]);
        let log = log.err().expect("it ends");
        assert!(log.contains(words), "{words} in {log}");
    }
    let log = Server::try_start(&["--config", &config, "--tls-cert", &at(here, "server.pem")]);
    assert!(log.err().expect("it ends").contains("--tls-key"));
}
