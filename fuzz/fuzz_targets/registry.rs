//! Any bytes as what a registry answers: MLflow over HTTP, with parts that are given in turns, and the files of a local one. No panic,
//! and a bounded number of requests.
#![no_main]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tidemark::registry::{LocalRegistry, MlflowRegistry, MlflowSettings, Registry};

/// Requests that one operation may make: as many pages as are read at most, and a few.
const REQUESTS: usize = 120;
const SEPARATOR: &[u8] = b"\n\n";
/// The most that a model may have.
const LIMIT_BYTES: u64 = 1 << 20;

static ANSWERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// A client of a server that answers with [`ANSWERS`] in turns.
static MLFLOW: LazyLock<MlflowRegistry> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || serve(stream)))));
    let mut settings = MlflowSettings::new(format!("http://{address}").into(), "fuzz");
    (settings.pause, settings.timeout) = (Duration::ZERO, Duration::from_secs(10));
    MlflowRegistry::new(&settings).expect("a valid address")
});
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(folder.path().join("m/1")).expect("a folder");
    folder
});

/// Answers the requests of a connection; none has a body that matters.
fn serve(mut stream: TcpStream) {
    let Ok(reading) = stream.try_clone() else { return };
    drop(stream.set_nodelay(true));
    let mut reader = BufReader::new(reading);
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_ascii_lowercase();
            length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap_or(0));
            if line.trim().is_empty() {
                break;
            }
        }
        drop(std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()));
        let body = {
            let answers = ANSWERS.lock().expect("nobody panicked");
            let asked = ASKED.fetch_add(1, Ordering::Relaxed);
            if answers.is_empty() { Vec::new() } else { answers[asked % answers.len()].clone() }
        };
        // An answer that begins with three digits names its status.
        let status = body.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
        let (status, body) = status.filter(|status| (400..500).contains(status)).map_or((200, &body[..]), |status| (status, &body[3..]));
        let head = format!("HTTP/1.1 {status} said\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = vec![Vec::new()];
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        if rest.starts_with(SEPARATOR) && parts.len() < 8 {
            parts.push(Vec::new());
            rest = &rest[SEPARATOR.len()..];
        } else {
            parts.last_mut().expect("there is one").push(first);
            rest = after;
        }
    }
    let folder = FOLDER.path();
    std::fs::write(folder.join("m/model.json"), &parts[0]).expect("the folder takes a file");
    std::fs::write(folder.join("m/1/meta.json"), parts.last().expect("there is one")).expect("the folder takes a file");
    all(&LocalRegistry::new(folder), &mut || {});
    *ANSWERS.lock().expect("nobody panicked") = parts;
    let mlflow = &*MLFLOW;
    all(mlflow, &mut || {
        let asked = ASKED.swap(0, Ordering::Relaxed);
        assert!(asked <= REQUESTS, "{asked} requests");
    });
});

/// Does everything that only reads.
fn all(registry: &dyn Registry, hold: &mut dyn FnMut()) {
    drop(registry.production("m"));
    hold();
    drop(registry.versions("m"));
    hold();
    if let Ok(files) = registry.load("m", 1, &["model/model.onnx", "meta.json"], LIMIT_BYTES) {
        assert!(files.values().map(Vec::len).sum::<usize>() as u64 <= LIMIT_BYTES);
    }
    hold();
}
