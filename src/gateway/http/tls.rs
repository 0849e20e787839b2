//! TLS of the listener: a certificate and its key from PEM files, read again when they change, so that a
//! renewed certificate is served without a restart. Connections that stand keep theirs.
//!
//! Invariants: a pair that cannot be read, or does not belong together, is never served: at the start it is
//! an error, later the one before stays. HTTP/1.1 is all that is spoken within.

use crate::files::{self, Stamp, stamp};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const WATCH: Duration = Duration::from_secs(2);
/// Of a file: a chain of certificates has some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How a client asks for HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// A certificate with its key, as it is by now.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    /// Of the files as they were first read.
    loaded: [Stamp; 2],
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the chain of `certificate`, the server's own first, and its `key`.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, String> {
        let loaded = [certificate, key].map(stamp);
        let config = ArcSwap::new(read(certificate, key)?);
        Ok(Arc::new(Self { certificate: certificate.to_owned(), key: key.to_owned(), loaded, config }))
    }

    /// For a connection that comes now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Takes what the files become. Never ends.
    pub async fn follow_files(self: Arc<Self>) {
        let mut known = self.loaded;
        loop {
            tokio::time::sleep(WATCH).await;
            let it = self.clone();
            // A file may be on another machine.
            let looked = tokio::task::spawn_blocking(move || {
                let stamps = [&it.certificate, &it.key].map(|path| stamp(path));
                (stamps != known).then(|| (stamps, read(&it.certificate, &it.key)))
            });
            let Ok(Some((stamps, new))) = looked.await else { continue };
            known = stamps;
            let certificate = self.certificate.display();
            match new {
                Ok(new) => {
                    self.config.store(new);
                    tracing::info!(%certificate, "the new certificate is served");
                }
                Err(reason) => {
                    tracing::error!(%certificate, %reason, "the certificate before is still served")
                }
            }
        }
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let of = |path: &Path, reason: &str| format!("{}: {reason}", path.display());
    let chain = CertificateDer::pem_slice_iter(&bytes(certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| of(certificate, &format!("no certificates in PEM: {error}")))?;
    if chain.is_empty() {
        return Err(of(certificate, "it has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)"));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|_| {
        of(key, "it has no private key in PEM (`-----BEGIN PRIVATE KEY-----`, not encrypted)")
    })?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, private));
    let mut config = config.map_err(|error| {
        of(certificate, &format!("not a certificate of the key in {}: {error}", key.display()))
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, FILE_BYTES_MAX).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}
