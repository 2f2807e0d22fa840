//! The text that `INFO` answers with.

/// A field of it; none when it is not there.
#[must_use]
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// How many replicas are in sync, as their master sees it.
pub(super) fn replicas_online(info: &str) -> usize {
    let is_replica = |name: &str| {
        let number = name.strip_prefix("slave");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(name, value)| is_replica(name) && value.contains("state=online")).count()
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
    }
}
