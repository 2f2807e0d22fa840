//! Starts local processes: Redis servers, nodes, a proxy; for tests and `clarion cluster up`.
