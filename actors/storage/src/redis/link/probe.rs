//! The probe of a shard: asks the master on a connection of its own for its time and state, and
//! writes a fence that enough replicas must confirm. What it finds is the shard's health; so a shard
//! becomes writable again by itself.

use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use tokio::time::Instant;

use super::call::Wish;
use super::clock::Sample;
use super::connection::{Connection, LinkError};
use super::fault::judge;
use super::info::Info;
use super::shard::{SKEW_MS_MAX, Shard};
use crate::StoreError;

/// Time between probes of a shard that is well.
const PERIOD: Duration = Duration::from_millis(500);
/// Between probes of one that is not, at the least.
const PERIOD_TROUBLED: Duration = Duration::from_millis(100);

/// Probes until the store closes.
pub(super) async fn run(shard: Arc<Shard>) {
    let mut probe = Probe { connection: None, shard };
    while !probe.shard.common.is_closed() {
        let mut master = probe.shard.master();
        let well = tokio::select! {
            well = probe.once() => well,
            _ = master.changed() => continue,
        };
        let period = if well { PERIOD } else { PERIOD_TROUBLED };
        tokio::select! {
            () = tokio::time::sleep(period.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            _ = master.changed() => probe.connection = None,
            () = probe.shard.probe.notified(), if well => {}
        }
    }
}

struct Probe {
    shard: Arc<Shard>,
    connection: Option<(Arc<str>, Connection)>,
}

impl Probe {
    /// True if all is well.
    async fn once(&mut self) -> bool {
        let Some(address) = self.shard.master().borrow().address.clone() else {
            self.shard.problem(Some(StoreError::Unavailable(self.shard.why_not())));
            return false;
        };
        let problem = match self.look(&address).await {
            Ok(problem) => problem,
            Err(error) => {
                self.connection = None;
                self.shard.failed(&error);
                self.shard.common.doubt.notify_waiters();
                Some(StoreError::Unavailable(self.shard.why_not()))
            }
        };
        let well = problem.is_none();
        let shard = self.shard.name.clone();
        metrics::gauge!("clarion_redis_writable", "shard" => shard.clone()).set(f64::from(well));
        let skew_ms = self.shard.skew_ms() as f64;
        metrics::gauge!("clarion_redis_clock_skew_ms", "shard" => shard).set(skew_ms);
        self.shard.problem(problem);
        self.shard.looked_at();
        well
    }

    /// What keeps the shard from being written to, if anything.
    async fn look(&mut self, address: &Arc<str>) -> Result<Option<StoreError>, LinkError> {
        let mut connection = match self.connection.take() {
            Some((to, connection)) if to == *address => connection,
            _ => Box::pin(self.shard.connect(address)).await?,
        };
        let timeout = self.shard.settings.timeout;
        let asked = Instant::now();
        let time = connection.ask(&[b"TIME"], timeout).await?;
        self.note_time(&time, asked);
        let sections: [&[u8]; 5] = [b"INFO", b"server", b"memory", b"persistence", b"replication"];
        let info = Info::parse(&connection.ask(&sections, timeout).await?);
        self.note_process(address, &info);
        self.shard.push_fence(&mut connection);
        let confirm = tokio::time::timeout(timeout, connection.round());
        let mut replies = confirm.await.map_err(|_| LinkError::TimedOut)??.into_iter();
        self.connection = Some((Arc::clone(address), connection));
        if let Some(Err(error)) = replies.next() {
            let fault = judge(&error, Wish::Durable, "fence");
            if fault.stale {
                return Err(LinkError::Refused(error.0));
            }
            return Ok(Some(fault.told));
        }
        let confirmed = match replies.next() {
            Some(Ok(Value::Int(count))) => count,
            Some(Err(error)) => return Err(LinkError::Refused(error.0)),
            _ => 0,
        };
        Ok(ailing(&self.shard, &info, confirmed).map(StoreError::Unavailable))
    }

    fn note_time(&self, time: &Value, asked: Instant) {
        if let Some(server) = parse_time(time) {
            self.shard.sample(Sample { server, asked, answered: Instant::now() });
        }
    }

    fn note_process(&self, address: &Arc<str>, info: &Info) {
        let run_id = info.text("run_id").unwrap_or_default().to_owned();
        if self.shard.seen(address, run_id, info.number("used_memory")) {
            metrics::counter!("clarion_redis_master_restarts_total").increment(1);
            tracing::error!(
                shard = self.shard.name,
                address = &**address,
                "the Redis master was restarted and not failed over: outside of the fault model, \
                 what its append-only file lacks is lost (let sentinels fail over before it restarts)"
            );
        }
    }
}

/// The answer to TIME.
pub(super) fn parse_time(time: &Value) -> Option<Duration> {
    let Value::Array(parts) = time else { return None };
    let number = |value: &Value| match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let [seconds, micros] = parts.as_slice() else { return None };
    Some(Duration::from_secs(number(seconds)?) + Duration::from_micros(number(micros)?))
}

/// What is wrong with a master that takes writes.
fn ailing(shard: &Shard, info: &Info, confirmed: i64) -> Option<String> {
    let (name, wanted) = (&shard.name, shard.settings.replicas_min);
    if confirmed < i64::from(wanted) {
        let connected = info.number("connected_slaves");
        if connected < u64::from(wanted) {
            return Some(format!(
                "the Redis master of shard {name} has {connected} replicas and {wanted} must confirm"
            ));
        }
        let lag_s = info.replicas().map(|replica| replica.lag_s).max().unwrap_or(0);
        return Some(format!(
            "replicas of shard {name} lag: {confirmed} of the {wanted} that must confirm did so in \
             time (silent for {lag_s} s at most)"
        ));
    }
    let skew_ms = shard.skew_ms();
    if skew_ms.abs() > SKEW_MS_MAX {
        return Some(format!(
            "the clocks of this node and of the Redis master of shard {name} are {skew_ms} ms apart: \
             synchronise them"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::settings::{RedisMode, RedisSettings};
    use super::super::shard::{Common, wall_clock};
    use super::*;

    #[test]
    fn i11_a_clock_that_is_two_seconds_off_is_told() {
        let settings =
            RedisSettings { replicas_min: 0, ..RedisSettings::new(RedisMode::Standalone, ["a"]) };
        let shard = Shard::new("a".into(), &Arc::new(settings), &Common::of_tests(), false);
        let told = |server: Duration| {
            let now = Instant::now();
            shard.sample(Sample { server, asked: now, answered: now });
            ailing(&shard, &Info::default(), 0)
        };
        assert_eq!(told(wall_clock() + Duration::from_millis(1500)), None);
        let ahead = told(wall_clock() + Duration::from_secs(86_400)).unwrap();
        assert!(ahead.contains("synchronise"), "{ahead}");
        assert!(told(wall_clock().saturating_sub(Duration::from_secs(3))).is_some());
    }

    #[test]
    fn time_is_read() {
        let text = |text: &str| Value::BulkString(text.into());
        let time = Value::Array(vec![text("12"), text("345000")]);
        assert_eq!(parse_time(&time), Some(Duration::from_millis(12_345)));
        assert_eq!(parse_time(&Value::Okay), None);
    }
}
