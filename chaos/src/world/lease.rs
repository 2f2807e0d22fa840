//! What a run made of the machine's own: namespaces, a bridge, mounts. They outlive the process that
//! made them, so each run keeps a record, locked for as long as the process lives. Who finds one that
//! is not locked clears away what it names.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;

/// Where the records are.
const RECORDS: &str = "/run/clarion-chaos";
/// Whoever makes, looks for or clears away a record holds this.
const GATE: &str = "gate";
/// How names of namespaces, interfaces and records begin; then comes the process id.
const PREFIX: &str = "cl";
/// Where the kernel shows namespaces that have a name.
const SPACES: &str = "/run/netns";
const INTERFACES: &str = "/sys/class/net";
/// The second part of addresses: a range of those for private use that is seldom used.
const SECOND: std::ops::Range<u16> = 64..192;

/// A run's right to names and addresses, and the record of what it made.
#[derive(Debug)]
pub struct Lease {
    name: String,
    /// The first three parts of all addresses.
    net: [u8; 3],
    /// Locked.
    record: File,
}

impl Lease {
    /// A new one, after what dead runs left is cleared away. Needs root.
    ///
    /// # Errors
    /// When this process may not.
    pub fn take() -> Result<Arc<Self>, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new("network namespaces and mounts need root"));
        }
        let _gate = gate()?;
        let alive = sweep_behind_gate()?;
        let pid = std::process::id();
        let mut names = (0_u32..).map(|n| format!("{PREFIX}{pid:x}-{n}"));
        let name = names.find(|name| !alive.iter().any(|other| other.name == *name));
        let name = name.ok_or_else(|| Failure::new("no name is free"))?;
        let net = free_net(&alive, pid)?;
        let path = Path::new(RECORDS).join(&name);
        let record = File::options().create_new(true).append(true).open(&path);
        let record = record.map_err(Failure::of("cannot write a record"))?;
        flock(&record, FlockOperation::NonBlockingLockExclusive)
            .map_err(Failure::of("cannot lock a record"))?;
        let lease = Self { name, net, record };
        let [a, b, c] = net;
        lease.note(&format!("net {a}.{b}.{c}"))?;
        Ok(Arc::new(lease))
    }

    /// How everything of this run begins.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first three parts of its addresses.
    pub(super) const fn net(&self) -> [u8; 3] {
        self.net
    }

    /// Records a mount, before it is made.
    pub(super) fn mount(&self, point: &Path) -> Result<(), Failure> {
        self.note(&format!("mount {}", point.display()))
    }

    fn note(&self, line: &str) -> Result<(), Failure> {
        let written = writeln!(&self.record, "{line}");
        written.map_err(Failure::of("cannot write a record"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Ok(_gate) = gate() {
            Record::read(&self.name).clear();
        }
    }
}

/// Clears away what runs left that were killed: processes in their namespaces first, then the
/// namespaces, interfaces and mounts. Gives their names.
///
/// # Errors
/// When this process may not.
pub fn sweep() -> Result<Vec<String>, Failure> {
    let before = records();
    if before.is_empty() {
        return Ok(Vec::new());
    }
    let _gate = gate()?;
    let alive = sweep_behind_gate()?;
    let swept = before.into_iter().filter(|name| !alive.iter().any(|other| other.name == *name));
    Ok(swept.collect())
}

/// What a run says that it made.
#[derive(Debug)]
struct Record {
    name: String,
    net: Option<String>,
    mounts: Vec<PathBuf>,
}

impl Record {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(Path::new(RECORDS).join(name)).unwrap_or_default();
        let of = |key: &'static str| text.lines().filter_map(move |line| line.strip_prefix(key));
        Self {
            name: name.to_owned(),
            net: of("net ").next().map(str::to_owned),
            mounts: of("mount ").map(PathBuf::from).collect(),
        }
    }

    /// Nothing of it stays. What cannot be cleared is tried again by the next run.
    fn clear(&self) {
        let of_namespaces = format!("{}-", self.name);
        let spaces = names_in(SPACES, &of_namespaces);
        for pid in processes_in(&spaces) {
            let _ = kill_process(pid, Signal::KILL);
        }
        for point in self.mounts.iter().rev() {
            // It goes when the last process lets go of it.
            quietly("umount", &["--lazy".as_ref(), point.as_os_str()]);
        }
        // The kernel is slow to clear a namespace away; what hangs on it goes first.
        let mut orders: Vec<String> = names_in(INTERFACES, &format!("{}v", self.name))
            .into_iter()
            .map(|link| format!("link delete {link}"))
            .collect();
        orders.extend(spaces.iter().map(|space| format!("netns delete {space}")));
        if Path::new(INTERFACES).join(&self.name).exists() {
            orders.push(format!("link delete {}", self.name));
        }
        let _ = batch("ip", &["-force"], &orders.join("\n"));
        if names_in(SPACES, &of_namespaces).is_empty() {
            let _ = std::fs::remove_file(Path::new(RECORDS).join(&self.name));
        }
    }
}

fn gate() -> Result<File, Failure> {
    std::fs::create_dir_all(RECORDS).map_err(Failure::of(RECORDS))?;
    let gate = File::options().create(true).append(true).open(Path::new(RECORDS).join(GATE));
    let gate = gate.map_err(Failure::of(RECORDS))?;
    flock(&gate, FlockOperation::LockExclusive).map_err(Failure::of(RECORDS))?;
    Ok(gate)
}

/// Clears dead runs away; gives those that live.
fn sweep_behind_gate() -> Result<Vec<Record>, Failure> {
    let mut alive = Vec::new();
    for name in records() {
        let record = File::open(Path::new(RECORDS).join(&name));
        let record = record.map_err(Failure::of("cannot read a record"))?;
        match flock(&record, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Record::read(&name).clear(),
            Err(_) => alive.push(Record::read(&name)),
        }
    }
    Ok(alive)
}

fn records() -> Vec<String> {
    names_in(RECORDS, PREFIX)
}

/// Names in a directory that begin so.
fn names_in(directory: &str, start: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(start)).collect()
}

/// Processes in these namespaces.
fn processes_in(spaces: &[String]) -> Vec<Pid> {
    let number = |space: &String| Some(Path::new(SPACES).join(space).metadata().ok()?.ino());
    let numbers: HashSet<u64> = spaces.iter().filter_map(number).collect();
    if numbers.is_empty() {
        return Vec::new();
    }
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let within = all.filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let number = entry.path().join("ns/net").metadata().ok()?.ino();
        if numbers.contains(&number) { Pid::from_raw(pid) } else { None }
    });
    within.collect()
}

/// Addresses that neither another run nor the machine uses.
fn free_net(alive: &[Record], pid: u32) -> Result<[u8; 3], Failure> {
    let routes = Command::new("ip").args(["-4", "route", "show", "table", "all"]).output();
    let routes = routes.map_err(Failure::of("`ip` (Debian: iproute2)"))?.stdout;
    let routes = String::from_utf8_lossy(&routes).into_owned();
    let of_runs: HashSet<&str> = alive.iter().filter_map(|run| run.net.as_deref()).collect();
    let count = u32::from(SECOND.end - SECOND.start) * 256;
    let mut all = (0..count).map(|step| (pid + step) % count);
    let free = all.find_map(|number| {
        let second = u8::try_from(u32::from(SECOND.start) + number / 256).ok()?;
        let net = [10, second, u8::try_from(number % 256).ok()?];
        let text = format!("{}.{}.{}", net[0], net[1], net[2]);
        let taken = of_runs.contains(&*text) || routes.contains(&format!("{text}."));
        (!taken).then_some(net)
    });
    free.ok_or_else(|| Failure::new("no addresses are free"))
}

fn quietly(program: &str, arguments: &[&std::ffi::OsStr]) {
    let mut command = Command::new(program);
    let _ = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Runs a program (`ip`, `tc`) with one order a line.
pub(super) fn batch(program: &str, options: &[&str], orders: &str) -> Result<(), Failure> {
    let mut all = options.to_vec();
    all.extend(["-batch", "-"]);
    run(program, &all, orders)
}

/// Runs a program with this as its input.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), Failure> {
    let what = format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Failure::of(&what))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended early says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(Failure::of(&what))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{what}: {}\n{input}", said.trim())))
}
