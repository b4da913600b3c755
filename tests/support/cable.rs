//! A plain TCP proxy before a server: everything gets through, until it is silent or slow for a while, or all connections are cut.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Which directions are silent. What is sent meanwhile waits here, as in a network that has lost its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// None.
    Nothing,
    /// The server hears nothing, and is heard.
    Requests,
    /// The server hears everything, and nobody hears the server.
    Answers,
    /// Both.
    Everything,
}

/// How slowly everything gets through, both ways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long each piece takes.
    pub(crate) delay: Duration,
    /// The most bytes of a piece.
    pub(crate) bytes: usize,
}

impl Pace {
    /// As fast as the machine can.
    const FULL: Self = Self { delay: Duration::ZERO, bytes: PIECE };
}

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// One of the two directions of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Silence {
    fn holds(self, way: Way) -> bool {
        match self {
            Self::Nothing => false,
            Self::Requests => way == Way::ToServer,
            Self::Answers => way == Way::ToClient,
            Self::Everything => true,
        }
    }
}

struct Lines {
    silence: Silence,
    pace: Pace,
    /// Both ends of each connection, by a number that is given once.
    open: BTreeMap<u64, [TcpStream; 2]>,
    next: u64,
}

struct State {
    lines: Mutex<Lines>,
    changed: Condvar,
    server: u16,
}

/// The proxy. Its threads end with the tests.
pub(crate) struct Cable {
    /// The port that clients connect to.
    pub(crate) port: u16,
    listener: Option<TcpListener>,
    state: Option<Arc<State>>,
}

impl Cable {
    /// Takes a port; the server can then be told of it.
    pub(crate) fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        Self { port: listener.local_addr().expect("it is bound").port(), listener: Some(listener), state: None }
    }

    /// Begins to let everything through to the server's port. While nobody listens there, connections are closed at once.
    pub(crate) fn forward_to(&mut self, server: u16) {
        let lines = Lines { silence: Silence::Nothing, pace: Pace::FULL, open: BTreeMap::new(), next: 0 };
        let state = Arc::new(State { lines: Mutex::new(lines), changed: Condvar::new(), server });
        let listener = self.listener.take().expect("it forwards to one server");
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Whoever finds nobody there is told so by the end of the connection.
                drop(connect(client, &shared));
            }
        });
        self.state = Some(state);
    }

    fn state(&self) -> &State {
        self.state.as_ref().expect("it forwards")
    }

    /// Is silent from now on, and no more with [`Silence::Nothing`]: then what waits is delivered.
    pub(crate) fn be_silent(&self, silence: Silence) {
        self.state().lines.lock().unwrap().silence = silence;
        self.state().changed.notify_all();
    }

    /// Is slow from now on, or with `None` no more; a piece that is under way takes its time.
    pub(crate) fn be_slow(&self, pace: Option<Pace>) {
        self.state().lines.lock().unwrap().pace = pace.unwrap_or(Pace::FULL);
    }

    /// Cuts every connection; what waits is lost. Returns how many there were.
    pub(crate) fn cut(&self) -> usize {
        let mut lines = self.state().lines.lock().unwrap();
        let cut = std::mem::take(&mut lines.open);
        cut.values().for_each(close);
        cut.len()
    }
}

fn close(ends: &[TcpStream; 2]) {
    for end in ends {
        // One that the other side has closed already cannot be closed again.
        drop(end.shutdown(Shutdown::Both));
    }
}

fn connect(client: TcpStream, state: &Arc<State>) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", state.server))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    let number = {
        let mut lines = state.lines.lock().unwrap();
        lines.next += 1;
        let number = lines.next;
        lines.open.insert(number, ends);
        number
    };
    let ways = [(client.try_clone()?, server.try_clone()?, Way::ToServer), (server, client, Way::ToClient)];
    for (from, to, way) in ways {
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            drop(carry(from, to, way, &state));
            if let Some(ends) = state.lines.lock().unwrap().open.remove(&number) {
                close(&ends);
            }
        });
    }
    Ok(())
}

/// Carries one direction until either end is closed.
fn carry(mut from: TcpStream, mut to: TcpStream, way: Way, state: &State) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let bytes = from.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..bytes];
        while !rest.is_empty() {
            let lines = state.lines.lock().unwrap();
            let Pace { delay, bytes } = state.changed.wait_while(lines, |lines| lines.silence.holds(way)).unwrap().pace;
            let (piece, after) = rest.split_at(bytes.min(rest.len()));
            std::thread::sleep(delay);
            to.write_all(piece)?;
            rest = after;
        }
    }
}
