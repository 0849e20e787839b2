//! How many files and sockets the system lets this process have open (`ulimit -n`), and how many connections
//! that is enough for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For all that is no connection: models, stores, logs, threads' own.
const OTHERS: u64 = 256;
/// A caller's connection, and one to an upstream for its request.
const PER_CONNECTION: u64 = 2;
/// So many connections are served however few descriptors there are.
const CONNECTIONS_MIN: usize = 16;

/// Raises the limit as far as the system lets it be raised, and says how many connections there may be:
/// `wanted`, or fewer where the limit is too low for them.
pub fn connections_max(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None: there is no limit.
    let before = current.unwrap_or(u64::MAX);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
    let limit = if raised.is_ok() { maximum.unwrap_or(u64::MAX) } else { before };
    let connections = connections_of(limit, wanted);
    match connections < wanted {
        true => tracing::warn!(
            limit,
            connections,
            wanted,
            "fewer connections than --max-connections: the limit of open files (ulimit -n) is too low for them"
        ),
        false => tracing::info!(limit, before, connections, "files that may be open, and connections"),
    }
    connections
}

fn connections_of(limit: u64, wanted: usize) -> usize {
    let reserved = novastack::gateway::RESERVED_CONNECTIONS as u64;
    let enough_for = (limit.saturating_sub(OTHERS) / PER_CONNECTION).saturating_sub(reserved);
    usize::try_from(enough_for).unwrap_or(usize::MAX).max(CONNECTIONS_MIN).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_the_limit_of_open_files() {
        assert_eq!(connections_of(1 << 20, 4096), 4096);
        assert_eq!(connections_of(u64::MAX, 4096), 4096);
        assert_eq!(connections_of(1024, 4096), 352);
        assert_eq!(connections_of(1024, 100), 100);
        assert_eq!(connections_of(64, 4096), 16);
        assert_eq!(connections_of(0, 4), 4);
    }
}
