//! The two listeners. Both addresses are taken before the store is opened, so that a port in use
//! costs nothing; connections are let in when the actors are there to serve them.

use std::io::ErrorKind;
use std::net::SocketAddr;

use clarion_config::{Config, Role};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::error::StartError;

/// Connections to the API that the kernel holds until they are accepted.
const HTTP_BACKLOG: u32 = 4096;

/// An address that is taken but not open yet.
pub(super) struct Door {
    socket: Socket,
    key: &'static str,
    wanted: SocketAddr,
    backlog: u32,
}

impl Door {
    /// The API's.
    pub(super) fn http(config: &Config) -> Result<Self, StartError> {
        Self::take("http.listen", config.http.listen, HTTP_BACKLOG)
    }

    /// The terminals'; none without the gateway role.
    pub(super) fn terminals(config: &Config) -> Result<Option<Self>, StartError> {
        if !config.node.roles.contains(&Role::Gateway) {
            return Ok(None);
        }
        let terminals = &config.terminals;
        Self::take("terminals.listen", terminals.listen, terminals.backlog).map(Some)
    }

    fn take(key: &'static str, wanted: SocketAddr, backlog: u32) -> Result<Self, StartError> {
        let taken = || -> std::io::Result<Socket> {
            let socket =
                Socket::new(Domain::for_address(wanted), Type::STREAM, Some(Protocol::TCP))?;
            // Connections of a former process in their last minutes do not keep the port.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&wanted.into())?;
            Ok(socket)
        };
        match taken() {
            Ok(socket) => Ok(Self { socket, key, wanted, backlog }),
            Err(error) => Err(refused(key, wanted, &error)),
        }
    }

    /// The address with the port that the system chose, if that was 0.
    pub(super) fn address(&self) -> SocketAddr {
        let taken = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        taken.unwrap_or(self.wanted)
    }

    /// Opens it.
    pub(super) fn open(self) -> Result<(TcpListener, SocketAddr), StartError> {
        let Self { socket, key, wanted, backlog } = self;
        let opened = || -> std::io::Result<(TcpListener, SocketAddr)> {
            socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
            let listener = TcpListener::from_std(socket.into())?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        opened().map_err(|error| refused(key, wanted, &error))
    }
}

fn refused(key: &str, wanted: SocketAddr, error: &std::io::Error) -> StartError {
    let (reason, mend) = match error.kind() {
        ErrorKind::AddrInUse => (
            "another process listens there".to_owned(),
            format!("stop it (`ss -ltnp` shows which), or give `{key}` another port"),
        ),
        ErrorKind::PermissionDenied => (
            "this user may not listen there".to_owned(),
            format!("give `{key}` a port from 1024 on, or the process CAP_NET_BIND_SERVICE"),
        ),
        ErrorKind::AddrNotAvailable => (
            "this machine does not have that address".to_owned(),
            format!("give `{key}` an address of this machine, or 0.0.0.0 for all of them"),
        ),
        _ => (error.to_string(), format!("give `{key}` another address")),
    };
    StartError::new(format!("cannot listen on {wanted} (`{key}`): {reason}")).mend(mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: SocketAddr) -> Config {
        let mut config = Config::default();
        config.http.listen = listen;
        config
    }

    #[tokio::test]
    async fn a_port_in_use_names_the_key_and_the_address() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (_listener, address) = Door::http(&config(any)).unwrap().open().unwrap();
        assert_ne!(address.port(), 0);
        let Err(error) = Door::http(&config(address)) else { panic!("taken twice") };
        assert!(error.message.contains("`http.listen`"), "{error}");
        assert!(error.message.contains(&address.to_string()), "{error}");
        assert!(error.mend.unwrap().contains("another port"));
    }

    #[test]
    fn a_node_that_is_no_gateway_takes_no_terminals() {
        let mut config = config("127.0.0.1:0".parse().unwrap());
        config.terminals.listen = "127.0.0.1:0".parse().unwrap();
        assert!(Door::terminals(&config).unwrap().is_some());
        config.node.roles = vec![Role::Push, Role::Broker];
        assert!(Door::terminals(&config).unwrap().is_none());
    }

    #[test]
    fn an_address_of_another_machine_is_told() {
        let Err(error) = Door::http(&config("192.0.2.1:0".parse().unwrap())) else {
            panic!("192.0.2.1 is for documentation")
        };
        assert!(error.message.contains("does not have that address"), "{error}");
    }
}
