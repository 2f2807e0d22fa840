//! What the nodes say of themselves meanwhile, once a second, by their own doors. What is queued is
//! left out: others use the cluster, too.

use std::sync::Arc;
use std::time::Duration;

use clarion_sdk::Admin;
use clarion_sdk::transport::{Connector as _, Tcp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Failure;
use crate::history::{Event, History, Name, Sample};
use crate::workload::Doors;

const EVERY: Duration = Duration::from_secs(1);
/// How long a door may take for its answer.
const ANSWER: Duration = Duration::from_millis(900);

/// Watches until it is dropped.
pub fn start(doors: &Doors, history: &Arc<History>) -> Result<JoinSet<()>, Failure> {
    let mut tasks = JoinSet::new();
    for door in &doors.http {
        let admin = Admin::new(&door.url, &doors.admin_token).map_err(Failure::of("a door"))?;
        let process: Name = format!("door:{}", door.name).into();
        tasks.spawn(watch(admin, process, Arc::clone(history)));
    }
    Ok(tasks)
}

/// The sum of a counter over its labels, whole; 0 if it has none.
///
/// # Errors
/// When the door does not answer.
pub async fn metric(door: &str, name: &str) -> Result<u64, Failure> {
    let asked = timeout(ANSWER * 5, metrics(door)).await;
    let text = asked.map_err(|_| Failure::new(format!("{door} does not answer")))?;
    let text = text.map_err(Failure::of(door))?;
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    // A counter is a whole number.
    Ok(text.lines().filter(of).filter_map(value).sum::<f64>() as u64)
}

async fn metrics(door: &str) -> std::io::Result<String> {
    use std::io::Error;
    let url = url::Url::parse(door).and_then(|url| url.join("/metrics")).map_err(Error::other)?;
    let (host, at) = (url.authority(), url.path());
    let mut stream = Tcp::new().map_err(Error::other)?.connect(&url).await?;
    let request = format!("GET {at} HTTP/1.0\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn watch(admin: Admin, process: Name, history: Arc<History>) {
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        turns.tick().await;
        let status = timeout(ANSWER, admin.status()).await.ok().and_then(Result::ok);
        let said = |field: &str| status.as_ref().and_then(|status| status[field].as_u64());
        history.add(Event::Sample(Box::new(Sample {
            process: Name::clone(&process),
            rss_kib: None,
            fds: None,
            threads: None,
            cpu_ms: None,
            links: said("links"),
            sessions: said("sessions"),
            queued_bytes: None,
        })));
    }
}
