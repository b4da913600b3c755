//! A proxy before a broker that understands enough of Kafka's protocol to hold one EndTxn back, cut the connection so that the client
//! sends it again, and release the held one into the next transaction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const PRODUCE: i16 = 0;
const END_TXN: i16 = 26;
const TXN_OFFSET_COMMIT: i16 = 28;
/// A request is never larger in a test.
const LARGEST: usize = 64 << 20;
/// The broker closes a transaction after it has answered EndTxn: its markers need a moment.
const MARKERS: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(5);

/// What the proxy is about to do.
#[derive(Default)]
enum Step {
    /// Let everything through.
    #[default]
    Idle,
    /// Hold the next EndTxn of this transactional id.
    Armed { id: String, release_at: usize },
    /// An EndTxn is held; the id's requests after the repeated one are counted.
    Held { id: String, release_at: usize, bytes: Vec<u8>, is_repeated: bool, seen: usize },
    /// It was released; the broker answered with this error code.
    Released(i16),
}

struct State {
    step: Mutex<Step>,
    changed: Condvar,
    broker: u16,
}

/// The proxy. Its threads end with the tests.
pub(crate) struct LateEnd {
    /// The port that the broker advertises.
    pub(crate) port: u16,
    listener: Option<TcpListener>,
    state: Option<Arc<State>>,
}

impl LateEnd {
    /// Takes a port; the broker can then be told of it.
    pub(crate) fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        Self { port: listener.local_addr().expect("it is bound").port(), listener: Some(listener), state: None }
    }

    /// Begins to let everything through to the broker's port.
    pub(crate) fn forward_to(&mut self, broker: u16) {
        let state = Arc::new(State { step: Mutex::default(), changed: Condvar::new(), broker });
        let listener = self.listener.take().expect("it forwards to one broker");
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || drop(connection(client, &state)));
            }
        });
        self.state = Some(state);
    }

    fn state(&self) -> &State {
        self.state.as_ref().expect("it forwards")
    }

    /// Attacks the next transaction that `id` commits. The held EndTxn is released before the request number `release_at` (from 0) of
    /// the one after it; a produce, an offset commit and an EndTxn are requests.
    pub(crate) fn attack(&self, id: &str, release_at: usize) {
        *self.state().step.lock().unwrap() = Step::Armed { id: id.to_owned(), release_at };
    }

    /// Waits until the attack was carried out; returns the broker's error code, 0 when it took the late EndTxn.
    pub(crate) fn carried_out(&self, limit: Duration) -> Option<i16> {
        let state = self.state();
        let step = state.step.lock().unwrap();
        let is_under_way = |step: &mut Step| !matches!(step, Step::Released(_));
        let (mut step, _) = state.changed.wait_timeout_while(step, limit, is_under_way).unwrap();
        let Step::Released(code) = *step else { return None };
        *step = Step::Idle;
        Some(code)
    }
}

/// What becomes of a request.
enum Fate {
    Pass,
    Cut,
}

fn connection(client: TcpStream, state: &State) -> std::io::Result<()> {
    let broker = TcpStream::connect(("127.0.0.1", state.broker))?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (mut answers, mut to_client) = (broker.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        drop(std::io::copy(&mut answers, &mut to_client));
        drop(to_client.shutdown(Shutdown::Both));
    });
    let result = requests(&client, &broker, state);
    drop(client.shutdown(Shutdown::Both));
    drop(broker.shutdown(Shutdown::Both));
    result
}

fn requests(mut client: &TcpStream, mut broker: &TcpStream, state: &State) -> std::io::Result<()> {
    loop {
        let request = frame(&mut client)?;
        match fate(&request, state) {
            Fate::Pass => broker.write_all(&request)?,
            Fate::Cut => return Ok(()),
        }
    }
}

/// Reads one request or answer, its size included.
fn frame(stream: &mut &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let length = u32::from_be_bytes(size) as usize;
    if length > LARGEST {
        return Err(std::io::Error::other("no request of Kafka's"));
    }
    let mut frame = vec![0; 4 + length];
    frame[..4].copy_from_slice(&size);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

fn api(request: &[u8]) -> i16 {
    request.get(4..6).map_or(-1, |key| i16::from_be_bytes([key[0], key[1]]))
}

fn names(request: &[u8], id: &str) -> bool {
    request.windows(id.len()).any(|part| part == id.as_bytes())
}

fn fate(request: &[u8], state: &State) -> Fate {
    let api = api(request);
    if !matches!(api, PRODUCE | END_TXN | TXN_OFFSET_COMMIT) {
        return Fate::Pass;
    }
    let mut step = state.step.lock().unwrap();
    match &mut *step {
        Step::Armed { id, release_at } if api == END_TXN && names(request, id) => {
            let (id, release_at) = (std::mem::take(id), *release_at);
            *step = Step::Held { id, release_at, bytes: request.to_vec(), is_repeated: false, seen: 0 };
            Fate::Cut
        }
        Step::Held { id, release_at, bytes, is_repeated, seen } if names(request, id) => {
            // Whoever sends no EndTxn again has begun anew: that is the next transaction, too.
            if api == END_TXN && !*is_repeated && *seen == 0 {
                *is_repeated = true;
                return Fate::Pass;
            }
            if *seen < *release_at && api != END_TXN {
                *seen += 1;
                return Fate::Pass;
            }
            // Meanwhile this request waits, and with it all others that could end the transaction.
            let code = release(bytes, state.broker).unwrap_or(-1);
            std::thread::sleep(MARKERS);
            *step = Step::Released(code);
            state.changed.notify_all();
            Fate::Pass
        }
        _ => Fate::Pass,
    }
}

/// Sends the held request on a connection of its own; returns the broker's error code.
fn release(request: &[u8], broker: u16) -> std::io::Result<i16> {
    let stream = TcpStream::connect(("127.0.0.1", broker))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    (&stream).write_all(request)?;
    let answer = frame(&mut &stream)?;
    // Size, correlation id; from version 3 on a byte of tags; throttle time; error code.
    let version = i16::from_be_bytes([request[6], request[7]]);
    let at = 4 + 4 + usize::from(version >= 3) + 4;
    Ok(i16::from_be_bytes([answer[at], answer[at + 1]]))
}
