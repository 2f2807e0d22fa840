//! One `redis-server`: master, replica, member of a cluster, or sentinel.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::info::SILENCE_MAX_S;
use super::{READY_DEADLINE, RedisOptions, info_field};
use crate::resp::{Connection, Value};
use crate::{LaunchError, Place, Process, Signal, port, wait};

/// The program, with which sentinels run, too.
const PROGRAM: &str = "redis-server";
/// Its config, in its directory.
const CONFIG: &str = "redis.conf";

/// A server process.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    directory: PathBuf,
    /// Where it listens without TLS.
    plain: SocketAddr,
    /// Where it listens with TLS.
    tls: Option<SocketAddr>,
    password: Option<String>,
}

/// Where a server is yet to be started.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub plain: SocketAddr,
    pub tls: Option<SocketAddr>,
    entry: Vec<String>,
}

impl Spot {
    /// The addresses of a server whose files are in `directory`: those it had when there are any,
    /// else free ones.
    pub fn of(directory: &Path, options: &RedisOptions, place: Place) -> Result<Self, LaunchError> {
        let Place { ip, entry } = place;
        let config = std::fs::read_to_string(directory.join(CONFIG)).unwrap_or_default();
        let known = |key: &str| {
            let port = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
            Some(SocketAddr::new(ip, port.trim().parse().ok()?))
        };
        let tls = || known("tls-port").map_or_else(|| port::free_at(ip), Ok);
        Ok(Self {
            plain: known("port").map_or_else(|| port::free_at(ip), Ok)?,
            tls: options.tls.is_some().then(tls).transpose()?,
            entry,
        })
    }
}

impl RedisServer {
    /// Starts a server with the given lines in its config, besides those of the options. Who waits
    /// for it is the caller.
    pub(super) fn start(
        name: &str,
        directory: &Path,
        spot: Spot,
        options: &RedisOptions,
        more: &[String],
    ) -> Result<Self, LaunchError> {
        let mut lines = options.lines(directory, spot.plain.ip());
        lines.extend_from_slice(more);
        Self::launch(name, directory, spot, options, lines, options.password.clone(), &[])
    }

    pub(super) fn start_sentinel(
        name: &str,
        directory: &Path,
        spot: Spot,
        options: &RedisOptions,
        more: &[String],
    ) -> Result<Self, LaunchError> {
        let mut lines = vec![
            format!("bind {}", spot.plain.ip()),
            "protected-mode no".to_owned(),
            format!("dir {}", directory.display()),
        ];
        let password = options.sentinel_password.clone();
        lines.extend(password.iter().map(|password| format!("requirepass {password}")));
        lines.extend(options.tls_lines());
        lines.extend_from_slice(more);
        Self::launch(name, directory, spot, options, lines, password, &["--sentinel"])
    }

    fn launch(
        name: &str,
        directory: &Path,
        spot: Spot,
        options: &RedisOptions,
        mut lines: Vec<String>,
        password: Option<String>,
        arguments: &[&str],
    ) -> Result<Self, LaunchError> {
        let at = directory.display();
        std::fs::create_dir_all(directory).map_err(LaunchError::of(format!("cannot make {at}")))?;
        lines.push(format!("port {}", spot.plain.port()));
        lines.extend(spot.tls.map(|tls| format!("tls-port {}", tls.port())));
        let config = directory.join(CONFIG);
        // One that is there was rewritten by the server: it knows who is master, and whose.
        if !config.exists() {
            std::fs::write(&config, lines.join("\n") + "\n")
                .map_err(LaunchError::of(format!("cannot write {}", config.display())))?;
        }
        let process = Process::new(name, PROGRAM, &directory.join("redis.log"))
            .arguments([config.as_os_str()])
            .arguments(arguments)
            .entered_by(&spot.entry)
            .own_group(options.own_group);
        let (plain, tls, directory) = (spot.plain, spot.tls, directory.to_owned());
        let mut server = Self { process, directory, plain, tls, password };
        server.process.start().map_err(|error| {
            error.with("`redis-server` must be installed (Debian: apt install redis-server)")
        })?;
        Ok(server)
    }

    /// Waits until it answers and has loaded its data.
    ///
    /// # Errors
    /// When it does not in time, or ended.
    pub async fn wait_ready(&mut self) -> Result<(), LaunchError> {
        let ready = wait::until(format!("{} ready", self.name()), READY_DEADLINE, async || {
            self.command(&["PING"]).await.map(drop)
        });
        let ready = ready.await;
        self.process.must_run()?;
        ready.map_err(|error| error.with(self.process.log_tail(20)))
    }

    /// Its name in the combined log.
    #[must_use]
    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// Where clients connect: its TLS port if it has one.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.tls.unwrap_or(self.plain)
    }

    /// Where it listens without TLS, always.
    #[must_use]
    pub const fn plain_addr(&self) -> SocketAddr {
        self.plain
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to change it.
    pub const fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id; none while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Sends it a signal. After [`Signal::Kill`] it may be there for a moment yet: use
    /// [`RedisServer::kill`] to wait.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), LaunchError> {
        self.process.signal(signal)
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn kill(&mut self) -> Result<(), LaunchError> {
        self.process.kill().await
    }

    /// Starts it again, with its files and address, after it was killed; waits until it answers.
    ///
    /// # Errors
    /// When it runs, or is not ready in time.
    pub async fn restart(&mut self) -> Result<(), LaunchError> {
        self.process.start()?;
        self.wait_ready().await
    }

    /// One command on a new connection without TLS, as the default user.
    ///
    /// # Errors
    /// When it cannot be reached, or answers with an error.
    pub async fn command(&self, words: &[&str]) -> Result<Value, LaunchError> {
        let connection = Connection::open(self.plain, self.password.as_deref()).await;
        let mut connection = connection.map_err(LaunchError::of(self.name()))?;
        connection.command(words).await.map_err(LaunchError::of(self.name()))
    }

    /// A section of `INFO`.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn info(&self, section: &str) -> Result<String, LaunchError> {
        Ok(self.command(&["INFO", section]).await?.text().to_owned())
    }

    /// Whether it is a master, by its own account.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn is_master(&self) -> Result<bool, LaunchError> {
        Ok(info_field(&self.info("replication").await?, "role") == Some("master"))
    }

    /// That it is a replica and in sync.
    pub(super) async fn replicates(&self) -> Result<(), LaunchError> {
        let info = self.info("replication").await?;
        let field = |name| info_field(&info, name).unwrap_or_default();
        let silence = field("master_last_io_seconds_ago");
        let heard = silence.parse().is_ok_and(|silence: u64| silence <= SILENCE_MAX_S);
        match (field("role"), field("master_link_status")) {
            ("slave", "up") if heard => Ok(()),
            (role, link) => Err(LaunchError::new(format!(
                "{} is {role}, its link {link:?}, silent for {silence} s",
                self.name()
            ))),
        }
    }
}

/// A Redis of one server.
#[derive(Debug)]
pub struct Redis {
    /// The server.
    pub server: RedisServer,
}

impl Redis {
    /// Starts one with the default options; its files are put into `directory`.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn standalone(directory: &Path) -> Result<Self, LaunchError> {
        Self::standalone_with(directory, &RedisOptions::default()).await
    }

    /// Starts one.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn standalone_with(
        directory: &Path,
        options: &RedisOptions,
    ) -> Result<Self, LaunchError> {
        let spot = Spot::of(directory, options, options.place(&options.places, 0))?;
        let mut server = RedisServer::start("redis", directory, spot, options, &[])?;
        server.wait_ready().await?;
        Ok(Self { server })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }
}
