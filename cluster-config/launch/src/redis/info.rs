//! The text that `INFO` answers with.

/// A field of it; none when it is not there.
#[must_use]
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// For how long a replica that is in sync may not have answered its master, or the other way round,
/// seconds: they do every second.
pub(super) const SILENCE_MAX_S: u64 = 2;

/// How many replicas are in sync and answer, as their master sees it.
pub(super) fn replicas_online(info: &str) -> usize {
    let is_replica = |name: &str| {
        let number = name.strip_prefix("slave");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let answers = |value: &str| {
        let lag = value.rsplit_once("lag=").and_then(|(_, lag)| lag.trim().parse().ok());
        lag.is_none_or(|lag: u64| lag <= SILENCE_MAX_S)
    };
    let fields = info.lines().filter_map(|line| line.split_once(':'));
    let online = fields.filter(|(name, value)| is_replica(name) && value.contains("state=online"));
    online.filter(|(_, value)| answers(value)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
        slave0:ip=127.0.0.1,port=1,state=online,offset=5,lag=0\r\n\
        slave1:ip=127.0.0.1,port=2,state=wait_bgsave,offset=0,lag=0\r\nslave_x:state=online\r\n";

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(info_field(INFO, "role"), Some("master"));
        assert_eq!(info_field(INFO, "connected"), None);
        assert_eq!(replicas_online(INFO), 1);
        assert_eq!(replicas_online(&INFO.replace("lag=0", "lag=9")), 0, "it does not answer");
    }
}
