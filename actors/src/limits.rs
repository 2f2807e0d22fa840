//! The config as the parts of a node want it.

use clarion_config::Config;
use clarion_core::session::SessionLimits;
use clarion_storage::LogLimits;

use crate::link::context::LinkLimits;
use crate::push::PushLimits;

/// How long an inbox may become; a full one refuses (I6).
pub(crate) fn inbox_limits(config: &Config) -> LogLimits {
    let logs = &config.logs;
    LogLimits { entries_max: logs.inbox_entries_max, bytes_max: logs.inbox_bytes_max, evict: false }
}

/// What pushes need of the config.
pub(crate) fn push_limits(config: &Config) -> PushLimits {
    let logs = &config.logs;
    PushLimits {
        in_flight_max: u32::try_from(config.limits.pushes_in_flight_max).unwrap_or(u32::MAX),
        request_timeout_ms: config.limits.request_timeout_ms,
        attempt_ms: config.limits.append_timeout_ms.max(config.cluster.forward_timeout_ms),
        idle_stop_ms: config.actors.idle_stop_ms,
        inbox: inbox_limits(config),
        topic: LogLimits {
            entries_max: logs.topic_entries_max,
            bytes_max: logs.topic_bytes_max,
            evict: true,
        },
        broadcast: LogLimits {
            entries_max: logs.broadcast_entries_max,
            bytes_max: logs.broadcast_bytes_max,
            evict: true,
        },
    }
}

/// What links need of it.
pub(crate) fn link_limits(config: &Config) -> LinkLimits {
    let (terminals, session) = (&config.terminals, &config.session);
    LinkLimits {
        open_timeout_ms: terminals.open_timeout_ms,
        flush_timeout_ms: terminals.flush_timeout_ms,
        frames_per_s_max: terminals.frames_per_s_max,
        sessions_max: terminals.sessions_per_link_max as usize,
        topics_max: session.topics_max,
        heartbeat_min_ms: session.heartbeat_min_ms,
        heartbeat_max_ms: session.heartbeat_max_ms,
        heartbeat_grace_ms: session.heartbeat_grace_ms,
        generation_check_ms: session.generation_check_ms,
        crashes_max: session.crashes_max,
        crash_window_ms: session.crash_window_ms,
        sessions_per_product_max: terminals.links_per_product_max,
    }
}

/// What sessions need of it.
pub(crate) fn session_limits(config: &Config) -> SessionLimits {
    let session = &config.session;
    SessionLimits {
        window_entries: session.window_entries,
        window_bytes: session.window_bytes,
        unicast_reserve_bytes: session.unicast_reserve_bytes,
        ack_timeout_ms: session.ack_timeout_ms,
        attempts_max: session.attempts_max,
        page_entries: session.page_entries,
        page_bytes: session.page_bytes,
        // Inbox, user inbox and broadcast beside the topics.
        logs_max: u16::try_from(session.topics_max + 3).unwrap_or(u16::MAX),
    }
}
