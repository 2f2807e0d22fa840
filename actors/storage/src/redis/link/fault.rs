//! What an error of a server means for the caller and for the connection.

use super::call::Wish;
use super::resp::ServerError;
use crate::StoreError;

/// An error, judged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What the caller is told.
    pub(super) told: StoreError,
    /// The server is not, or not now, the master we took it for: connect anew.
    pub(super) stale: bool,
}

/// What became of a call that was answered with an error. All but the last kind are raised before
/// a script does anything (of a slot that moves by `scripts/lib/still.lua`).
pub(super) fn judge(error: &ServerError, wish: Wish, what: &str) -> Fault {
    let unavailable = |stale| Fault { told: StoreError::Unavailable(error.0.clone()), stale };
    match error.code() {
        "READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" | "MOVED" | "UNBLOCKED"
        | "NOAUTH" => unavailable(true),
        // A slot on its way. ASK is not followed: over there a script would take a key of the log that has
        // not arrived yet for one that does not exist, and nothing tells the two apart. It ends with
        // the move, when MOVED or the next look at the cluster names the new server.
        "ASK" | "TRYAGAIN" | "MISCONF" | "NOREPLICAS" | "BUSY" | "NOPERM" | "NOSCRIPT" => {
            unavailable(false)
        }
        "OOM" => Fault {
            told: StoreError::Full("Redis is at its maxmemory: raise it or add a shard".into()),
            stale: false,
        },
        // A slot that moves: every script with more than one key looks for this before it does anything.
        _ if error.0.contains("access a non local key") => unavailable(false),
        _ => {
            metrics::counter!("clarion_redis_errors_total", "kind" => "script").increment(1);
            tracing::error!(error = error.0, what, "Redis answers with an error");
            let told = match wish {
                Wish::Read => StoreError::Unavailable(error.0.clone()),
                // A script that fails half-way keeps what it did.
                Wish::Durable | Wish::Relaxed => StoreError::Unknown(error.0.clone()),
            };
            Fault { told, stale: false }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, wish: Wish) -> Fault {
        judge(&ServerError(text.into()), wish, "test")
    }

    #[test]
    fn a_deposed_master_is_left_and_nothing_happened() {
        let fault = told("READONLY You can't write against a read only replica.", Wish::Durable);
        assert!(fault.stale && matches!(fault.told, StoreError::Unavailable(_)));
    }

    #[test]
    fn a_full_server_is_told_as_such() {
        assert!(matches!(told("OOM command not allowed", Wish::Durable).told, StoreError::Full(_)));
    }

    #[test]
    fn a_script_that_broke_may_have_done_something() {
        let fault = told("WRONGTYPE Operation against a key", Wish::Durable);
        assert!(matches!(fault.told, StoreError::Unknown(_)) && !fault.stale);
        assert!(matches!(told("ERR x", Wish::Read).told, StoreError::Unavailable(_)));
    }
}
