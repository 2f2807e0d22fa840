//! The answer to INFO.

use std::collections::HashMap;

use ::redis::Value;

/// Fields by name.
#[derive(Debug, Default)]
pub(super) struct Info(HashMap<String, String>);

/// A replica as its master sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// `host:port`.
    pub(super) address: String,
    /// In step, not copying.
    pub(super) online: bool,
    /// Seconds since it last said how far it is.
    pub(super) lag_s: u64,
}

impl Info {
    pub(super) fn parse(answer: &Value) -> Self {
        let text = match answer {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
            _ => return Self::default(),
        };
        let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Zero if it is not there.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = Replica> {
        (0..self.number("connected_slaves")).filter_map(|number| {
            let text = self.text(&format!("slave{number}"))?;
            let fields: HashMap<&str, &str> =
                text.split(',').filter_map(|field| field.split_once('=')).collect();
            Some(Replica {
                address: format!("{}:{}", fields.get("ip")?, fields.get("port")?),
                online: fields.get("state") == Some(&"online"),
                lag_s: fields.get("lag").and_then(|lag| lag.parse().ok()).unwrap_or(u64::MAX),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_found_in_info() {
        let text = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
            slave0:ip=127.0.0.1,port=7001,state=online,offset=70,lag=1\r\n\
            slave1:ip=127.0.0.1,port=7002,state=wait_bgsave,offset=0,lag=0\r\n";
        let info = Info::parse(&Value::BulkString(text.into()));
        assert_eq!(info.text("role"), Some("master"));
        let replicas: Vec<_> = info.replicas().collect();
        assert_eq!(replicas.len(), 2);
        assert_eq!(replicas[0].address, "127.0.0.1:7001");
        assert!(replicas[0].online && !replicas[1].online);
        assert_eq!(info.number("absent"), 0);
    }
}
