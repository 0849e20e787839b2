//! Reads the configuration again when its file changes and when SIGHUP asks for it. A new file that is wrong,
//! that asks for other local models or other `server` settings, or that would leave an open address without
//! keys, is refused and the old one stays.
//!
//! Files may take long, on a network's disk for ever. They are looked at on a thread of their own: neither new
//! connections nor signals wait for them.

use super::{ServeArgs, has_keys, locals, read_config};
use arc_swap::ArcSwap;
use novastack::files::stamp;
use novastack::gateway::{self, Registry, Routing};
use novastack::store::Store;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the configuration's file is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// What a new configuration is held against.
pub struct Reload {
    pub args: Arc<ServeArgs>,
    pub routing: Arc<ArcSwap<Routing>>,
    pub registry: Arc<Registry>,
    pub store: Option<Arc<Store>>,
    /// Where the server listens.
    pub host: IpAddr,
}

impl Reload {
    /// Goes on until the program ends. Requests under way keep what they were planned with.
    pub async fn run(self) {
        let Some(path) = self.args.config.clone() else { return };
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let it = Arc::new(self);
        let mut known = stamp(&path);
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(WATCH) => false,
            };
            let (it, path) = (it.clone(), path.clone());
            let look = move || {
                let found = stamp(&path);
                if asked || (found != known && found.is_some()) {
                    it.take(&path);
                    return found;
                }
                known
            };
            match tokio::task::spawn_blocking(look).await {
                Ok(found) => known = found,
                Err(error) => tracing::error!(%error, "the configuration could not be read"),
            }
        }
    }

    /// Takes the file's configuration, where it holds.
    fn take(&self, path: &Path) {
        match self.read() {
            Ok(new) => {
                new.config().warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                self.routing.store(Arc::new(new));
                tracing::info!(file = %path.display(), "the new configuration holds");
            }
            Err(reason) => tracing::error!(file = %path.display(), %reason, "the old configuration stays"),
        }
    }

    fn read(&self) -> Result<Routing, String> {
        let (args, old) = (&self.args, self.routing.load());
        let new = read_config(args)?;
        if locals(&new) != locals(old.config()) {
            return Err("other local models than those that are loaded take a restart".into());
        }
        if new.server != old.config().server {
            return Err("other settings of `server` than those at the start take a restart".into());
        }
        let has_keys = has_keys(args, &new, self.store.as_deref());
        gateway::check_bind(self.host, has_keys, args.allow_unauthenticated)?;
        Routing::new(new, &args.api_keys, &self.registry)
    }
}
