//! The change stream of one collection, and, once, its history.
//!
//! The driver's futures cannot be cancelled, so one task owns the cursor and does nothing but read replies, whole and raw. A
//! thread beside it looks up what updates left out and decodes. Both channels are bounded: a slow log slows the cursor.
//! Whatever fails is said once; the tail then opens the source again, from its position, with a new client.

mod decode;
mod history;
mod pipeline;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use futures_util::StreamExt;
use mongodb::options::ClientOptions;
use mongodb::raw_batch_cursor::RawBatch;
use mongodb::{Client, Collection};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use self::decode::{Decoder, NotAReply, Skip, Versions};
use super::normalise::{Normaliser, Unreadable};
use super::position::hex;
use super::source::{ClusterTime, Event, HistoryPlace, Opened, Place, Resume, Source, SourceError, count_unreadable};
use crate::config::{Config, Start};
use crate::spec::Spec;

/// Replies that wait to be decoded, and lists of events that wait to be taken.
const WAITING: usize = 2;
/// A server that is there answers within a second or so; after so long without a word, everything is opened anew. Doubled each
/// time in a row up to [`MOST_STALLS`] times, because a server that looks through a long oplog is silent, too.
const STALLED: Duration = Duration::from_secs(15);
/// See [`STALLED`]: eight minutes.
const MOST_STALLS: u32 = 5;
/// Once it has answered, it answers within [`AWAIT`] whatever happens: so much longer and it is frozen, or was replaced. Doubled like
/// [`STALLED`], up to nine minutes.
const FROZEN: Duration = Duration::from_secs(4);
/// See [`FROZEN`].
const MOST_FREEZES: u32 = 7;
/// A chunk of a history may be scattered over a large collection.
const SCATTERED: u32 = 10;
/// How long a call may look for a server.
const SELECTION: Duration = Duration::from_secs(5);
/// How long the server may wait for events while a history is read: each chunk waits for the stream to pass it.
const HISTORY_AWAIT: Duration = Duration::from_millis(50);
/// The same otherwise, which is what the server does by itself.
const AWAIT: Duration = Duration::from_secs(1);

/// Returns the stages after `$changeStream`, which the server runs: what may have completed, and nothing but the spec's fields.
#[must_use]
pub fn stages(spec: &Spec) -> Vec<Document> {
    pipeline::stages(spec, &Normaliser::new(spec).paths())
}

/// Returns the predicate by which the server leaves out what is not completed, where it can be spelt.
pub(crate) fn completed_filter(spec: &Spec) -> Document {
    pipeline::completed_filter(spec)
}

/// The source.
pub struct MongoSource {
    uri: SecretString,
    database: String,
    start: Start,
    batch_rows: u32,
    spec: Arc<Spec>,
    normaliser: Normaliser,
    runtime: Arc<Runtime>,
    reading: Option<Receiver<Result<Vec<Event>, SourceError>>>,
    rest: VecDeque<Event>,
    /// Failures since the last event.
    failures: u32,
}

/// What the server says about itself and the collection.
struct Facts {
    set: String,
    operation_time: ClusterTime,
    uuid: String,
    has_images: bool,
}

impl MongoSource {
    /// Prepares to read the spec's collection.
    ///
    /// # Errors
    /// [`SourceError::Refused`] when no connection string is configured, or no thread can be had.
    pub fn new(config: &Config, spec: &Arc<Spec>) -> Result<Self, SourceError> {
        let refused = |reason: String| SourceError::Refused { doing: "preparing to read MongoDB".to_owned(), reason };
        let uri = config.mongodb.uri.clone().ok_or_else(|| refused("no mongodb.uri (MONGODB_URI) is configured".to_owned()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tail-mongo")
            .enable_all()
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            uri,
            database: config.mongodb.database.clone().unwrap_or_else(|| spec.source.database.clone()),
            start: config.tail.start,
            batch_rows: config.tail.batch_rows,
            spec: spec.clone(),
            normaliser: Normaliser::new(spec),
            runtime: Arc::new(runtime),
            reading: None,
            rest: VecDeque::new(),
            failures: 0,
        })
    }

    fn stages(&self) -> Vec<Document> {
        pipeline::stages(&self.spec, &self.normaliser.paths())
    }

    fn fingerprint(&self, facts: &Facts) -> String {
        let stages = self.stages();
        let whole = format!("{} {} {} {} {stages:?}", facts.set, self.database, facts.uuid, self.spec.fingerprint());
        hex(&Sha256::digest(whole)[..8])
    }

    async fn connect(uri: &SecretString) -> mongodb::error::Result<Client> {
        let mut options = ClientOptions::parse(uri.expose_secret()).await?;
        options.app_name = options.app_name.or_else(|| Some("tidemark".to_owned()));
        options.server_selection_timeout = options.server_selection_timeout.or(Some(SELECTION));
        options.connect_timeout = options.connect_timeout.or(Some(SELECTION));
        Client::with_options(options)
    }

    async fn facts(client: &Client, database: &str, collection: &str) -> mongodb::error::Result<Facts> {
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        let list = client.database(database).run_command(list).await?;
        let entry = list.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).ok();
        let entry = entry.and_then(|batch| batch.first()).and_then(Bson::as_document);
        let uuid = entry.and_then(|entry| entry.get_document("info").ok()).and_then(|info| info.get("uuid"));
        let images = entry
            .and_then(|entry| entry.get_document("options").ok())
            .and_then(|options| options.get_document("changeStreamPreAndPostImages").ok())
            .is_some_and(|images| images.get_bool("enabled").unwrap_or(false));
        let time = hello.get_timestamp("operationTime").unwrap_or(Timestamp { time: 0, increment: 0 });
        Ok(Facts {
            set: hello.get_str("setName").unwrap_or("sharded").to_owned(),
            operation_time: (time.time, time.increment),
            uuid: uuid.map(ToString::to_string).unwrap_or_default(),
            has_images: images,
        })
    }
}

impl Source for MongoSource {
    fn is_replay(&self) -> bool {
        false
    }

    fn open(&mut self, from: Option<&Resume>) -> Result<Opened, SourceError> {
        self.reading = None;
        self.rest.clear();
        let namespace = format!("{}.{}", self.database, self.spec.source.collection);
        let doing = format!("opening the change stream of {namespace}");
        let runtime = self.runtime.clone();
        let patience = STALLED * 2_u32.pow(self.failures.min(MOST_STALLS));
        let alive = FROZEN * 2_u32.pow(self.failures.min(MOST_FREEZES));
        self.failures += 1;
        let (client, facts) = within(&runtime, patience, &doing, async {
            let client = Self::connect(&self.uri).await?;
            let facts = Self::facts(&client, &self.database, &self.spec.source.collection).await?;
            Ok((client, facts))
        })?;
        if facts.operation_time == (0, 0) {
            let reason = "the server is neither of a replica set nor of a sharded cluster, and has no change streams".to_owned();
            return Err(SourceError::Refused { doing, reason });
        }
        if !facts.has_images {
            tracing::warn!(
                "{namespace} keeps no pre- and post-images: a replaced document counts as completed (transition `assumed`), and an \
                 update is read as it is by then. collMod with changeStreamPreAndPostImages: {{enabled: true}} changes that"
            );
        }
        let fingerprint = self.fingerprint(&facts);
        let (opened, skip) = begin(from, &facts, fingerprint, self.start);
        let decoder = Decoder::new(self.normaliser.clone(), is_id(&self.spec), &opened.place, skip.clone());
        let mut stream = Stream {
            collection: client.database(&self.database).collection(&self.spec.source.collection),
            stages: self.stages(),
            has_images: facts.has_images,
            batch_rows: self.batch_rows,
            wait: if opened.history.is_some() { HISTORY_AWAIT } else { AWAIT },
            runtime: runtime.clone(),
            patience,
            alive,
            answers: 0,
            doing,
            replies: None,
        };
        let from = match &opened.place {
            Place::Stream { token, .. } if !token.is_empty() && skip == Skip::Nothing => From::Token(token.clone()),
            Place::Stream { time, .. } => From::Time(*time),
            Place::Rows(_) => From::Time(facts.operation_time),
        };
        stream.open(&from).map_err(|error| match error {
            SourceError::Forgotten { doing, reason, .. } => SourceError::Forgotten { doing, reason, present: facts.operation_time },
            other => other,
        })?;
        let (sender, receiver) = crossbeam_channel::bounded(WAITING);
        let reader = Reader { stream, client, decoder, spec: self.spec.clone(), out: sender };
        let history = opened.history.clone();
        std::thread::Builder::new()
            .name("tail-decode".to_owned())
            .spawn(move || reader.run(history))
            .map_err(|error| SourceError::Unavailable { doing: "starting the decoding thread".to_owned(), reason: error.to_string() })?;
        self.reading = Some(receiver);
        Ok(opened)
    }

    fn read(&mut self, most: usize, timeout: Duration, into: &mut Vec<Event>) -> Result<(), SourceError> {
        let wanted = into.len() + most;
        while into.len() < wanted {
            let missing = wanted - into.len();
            if self.rest.is_empty() {
                let Some(receiver) = &self.reading else {
                    let doing = "reading the change stream".to_owned();
                    return Err(SourceError::Unavailable { doing, reason: "it is not open".to_owned() });
                };
                let wait = if into.is_empty() { timeout } else { Duration::ZERO };
                match receiver.recv_timeout(wait) {
                    Ok(Ok(events)) => {
                        self.failures = 0;
                        self.rest = events.into();
                    }
                    Ok(Err(error)) => {
                        self.reading = None;
                        if into.is_empty() {
                            return Err(error);
                        }
                        // What came before it is good; the next call says that the stream is not open.
                        tracing::warn!("{error}");
                        return Ok(());
                    }
                    Err(RecvTimeoutError::Timeout) => return Ok(()),
                    Err(RecvTimeoutError::Disconnected) => {
                        self.reading = None;
                        continue;
                    }
                }
            }
            into.extend(self.rest.drain(..missing.min(self.rest.len())));
        }
        Ok(())
    }
}

/// Whether the ticket's id is the document's `_id`.
fn is_id(spec: &Spec) -> bool {
    spec.ticket.id.names() == ["_id"]
}

/// Decides where to begin, and what to pass over.
fn begin(from: Option<&Resume>, facts: &Facts, fingerprint: String, start: Start) -> (Opened, Skip) {
    let Some(from) = from else {
        // All that committed at or before the operation time is history.
        let place = Place::Stream { token: bytes::Bytes::new(), time: facts.operation_time, index: u32::MAX };
        let history =
            (start == Start::History).then_some(HistoryPlace { since: facts.operation_time, last: None, completed_from_ms: None });
        return (Opened { place, fingerprint, history }, Skip::Events(facts.operation_time, u32::MAX));
    };
    let skip = match &from.place {
        Place::Rows(_) => Skip::Nothing,
        Place::Stream { token, time, index } if token.is_empty() => Skip::Events(*time, *index),
        Place::Stream { .. } if from.fingerprint == fingerprint => Skip::Nothing,
        Place::Stream { token, time, index } => {
            let data = RawDocument::from_bytes(token).ok().and_then(|token| token.get_str("_data").ok());
            data.map_or(Skip::Events(*time, *index), |data| Skip::Through(data.to_owned()))
        }
    };
    (Opened { place: from.place.clone(), fingerprint, history: from.history.clone() }, skip)
}

/// Turns a driver's error into what the tail has to do about it.
fn failed(doing: &str, error: &mongodb::error::Error) -> SourceError {
    let code = match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    };
    let advice = match code {
        Some(286 | 136) => {
            // Whoever knows the server's time puts it in.
            return SourceError::Forgotten { doing: doing.to_owned(), reason: error.to_string(), present: (0, 0) };
        }
        Some(260 | 280) => "the position's resume token is not one of this collection",
        Some(13) => "the user needs the privileges find, changeStream and listCollections on the collection",
        Some(18 | 8000) => "user or password are wrong",
        Some(40_573) => "change streams need a replica set",
        Some(47) => "a post-image that is required is missing",
        Some(10_334) => "an event is larger than 16 MB",
        Some(9 | 40_324 | 16_410 | 31_249 | 31_250 | 51_091) => "the spec's paths cannot be asked for",
        _ => match error.kind.as_ref() {
            mongodb::error::ErrorKind::Authentication { .. } => "user or password are wrong",
            mongodb::error::ErrorKind::InvalidArgument { .. } => "the connection string or an option is wrong",
            _ => return SourceError::Unavailable { doing: doing.to_owned(), reason: error.to_string() },
        },
    };
    SourceError::Refused { doing: doing.to_owned(), reason: format!("{advice} ({error})") }
}

fn silent(doing: &str, patience: Duration) -> SourceError {
    SourceError::Unavailable { doing: doing.to_owned(), reason: format!("the server has been silent for {} s", patience.as_secs()) }
}

/// Waits for the driver, but not for ever: it has no socket time-out. What was waited for must then be thrown away.
fn within<T>(
    runtime: &Runtime,
    patience: Duration,
    doing: &str,
    future: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, SourceError> {
    match runtime.block_on(async { tokio::time::timeout(patience, future).await }) {
        Ok(result) => result.map_err(|error| failed(doing, &error)),
        Err(_) => Err(silent(doing, patience)),
    }
}

/// Where a cursor begins.
enum From {
    Token(bytes::Bytes),
    Time(ClusterTime),
}

/// The cursor, and the task that owns it.
struct Stream {
    collection: Collection<RawDocumentBuf>,
    stages: Vec<Document>,
    has_images: bool,
    batch_rows: u32,
    wait: Duration,
    runtime: Arc<Runtime>,
    patience: Duration,
    /// How long it may be silent once it has answered twice: the first answer only opens, and behind the second may be a long oplog.
    alive: Duration,
    answers: u64,
    doing: String,
    replies: Option<Replies>,
}

/// What the task sends; the task ends when this is dropped.
struct Replies {
    receiver: mpsc::Receiver<mongodb::error::Result<RawBatch>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    fn open(&mut self, from: &From) -> Result<(), SourceError> {
        self.replies = None;
        self.answers = 0;
        let mut change_stream = Document::new();
        match from {
            From::Token(token) => {
                let token = RawDocument::from_bytes(token).ok().and_then(|token| Document::try_from(token).ok());
                change_stream.insert("startAfter", token);
            }
            From::Time((time, increment)) => {
                change_stream.insert("startAtOperationTime", Timestamp { time: *time, increment: *increment });
            }
        }
        if self.has_images {
            change_stream.insert("fullDocument", "whenAvailable");
            change_stream.insert("fullDocumentBeforeChange", "whenAvailable");
        }
        let mut stages = vec![doc! { "$changeStream": change_stream }];
        stages.extend(self.stages.iter().cloned());
        let aggregate = self.collection.aggregate(stages).batch_size(self.batch_rows).max_await_time(self.wait);
        let mut cursor = self.block_on(async move { aggregate.batch().await })?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let task = self.runtime.spawn(async move {
            while let Some(reply) = cursor.next().await {
                let is_error = reply.is_err();
                if sender.send(reply).await.is_err() || is_error {
                    break;
                }
            }
        });
        self.replies = Some(Replies { receiver, task: task.abort_handle() });
        Ok(())
    }

    fn block_on<T>(&self, future: impl Future<Output = mongodb::error::Result<T>>) -> Result<T, SourceError> {
        within(&self.runtime, self.patience, &self.doing, future)
    }

    fn unavailable(&self, reason: &str) -> SourceError {
        SourceError::Unavailable { doing: self.doing.clone(), reason: reason.to_owned() }
    }

    fn next(&mut self) -> Result<RawBatch, SourceError> {
        let Some(replies) = &mut self.replies else {
            return Err(self.unavailable("it is not open"));
        };
        let patience = if self.answers > 1 { self.alive } else { self.patience };
        let next = self.runtime.block_on(async { tokio::time::timeout(patience, replies.receiver.recv()).await });
        match next {
            Ok(Some(Ok(batch))) => {
                self.answers += 1;
                Ok(batch)
            }
            Ok(Some(Err(error))) => Err(failed(&self.doing, &error)),
            Ok(None) => Err(self.unavailable("the server closed it")),
            Err(_) => Err(silent(&self.doing, patience)),
        }
    }
}

/// The thread that decodes.
struct Reader {
    stream: Stream,
    client: Client,
    decoder: Decoder,
    spec: Arc<Spec>,
    out: Sender<Result<Vec<Event>, SourceError>>,
}

/// Why the thread ends.
enum Ended {
    /// Nobody listens any more.
    Unheard,
    /// It failed.
    Failed(SourceError),
}

impl std::convert::From<SourceError> for Ended {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    fn run(mut self, history: Option<HistoryPlace>) {
        let ended = match history.map_or(Ok(()), |history| self.history(history)) {
            Ok(()) => loop {
                if let Err(ended) = self.forward() {
                    break ended;
                }
            },
            Err(ended) => ended,
        };
        if let Ended::Failed(error) = ended {
            // An error here means that nobody listens, and then nobody has to know.
            let _unheard = self.out.send(Err(error));
        }
    }

    fn send(&self, events: Vec<Event>) -> Result<(), Ended> {
        if events.is_empty() { Ok(()) } else { self.out.send(Ok(events)).map_err(|_| Ended::Unheard) }
    }

    fn count(&self, unreadable: &Unreadable) {
        count_unreadable(&self.spec, unreadable);
    }

    /// Takes one reply through: looks up, decodes, sends.
    fn forward(&mut self) -> Result<(), Ended> {
        let reply = self.stream.next()?;
        let events = self.decode(&reply)?;
        self.send(events)?;
        self.count(&self.decoder.unreadable);
        self.decoder.unreadable.clear();
        if let Some(token) = self.decoder.invalidated.take() {
            tracing::warn!("the collection was dropped or renamed; what takes its place is followed");
            self.stream.open(&From::Token(token))?;
        }
        Ok(())
    }

    fn decode(&mut self, reply: &RawBatch) -> Result<Vec<Event>, SourceError> {
        let strange = |reason: String| SourceError::Refused { doing: "reading the change stream".to_owned(), reason };
        let not_a_reply = |error: NotAReply| strange(error.to_string());
        let documents = reply.doc_slices().map_err(|error| strange(error.to_string()))?;
        let documents = || documents.into_iter().filter_map(|document| document.ok().and_then(bson::RawBsonRef::as_document));
        let ids = decode::to_look_up(documents()).map_err(not_a_reply)?;
        let (versions, unreadable) = if ids.is_empty() {
            Default::default()
        } else {
            let latest = documents().filter_map(|event| event.get_timestamp("clusterTime").ok()).max();
            self.look_up(ids, latest)?
        };
        self.count(&unreadable);
        let mut events = Vec::new();
        for document in documents() {
            events.extend(self.decoder.event(document, &versions).map_err(not_a_reply)?);
        }
        let token = reply.as_raw_document().get_document("cursor").and_then(|cursor| cursor.get_document("postBatchResumeToken"));
        if self.decoder.invalidated.is_none()
            && let Ok(token) = token
        {
            events.extend(self.decoder.replied(token));
        }
        Ok(events)
    }

    /// Reads the versions of documents that updates completed: by majority, not before `latest`, from the primary.
    fn look_up(&self, ids: Vec<RawDocumentBuf>, latest: Option<Timestamp>) -> Result<(Versions, Unreadable), SourceError> {
        let ids: Vec<Bson> = ids.into_iter().filter_map(|id| Document::try_from(id.as_ref()).ok()?.remove("_id")).collect();
        let query = history::Query {
            filter: doc! { "_id": { "$in": ids } },
            projection: pipeline::find_projection(&self.decoder.normaliser().paths()),
            not_before: latest,
            from: None,
            limit: None,
        };
        let mut unreadable = Unreadable::default();
        let mut versions = Versions::new();
        let mut take = |document: &RawDocument| {
            if let Ok(Some(id)) = document.get("_id") {
                let normalised = self.decoder.normaliser().completed_from_bson(document, &mut unreadable);
                versions.insert(decode::id_document(id).into_bytes(), normalised);
            }
        };
        self.stream.block_on(history::find(&self.client, &self.stream.collection, query, &mut take))?;
        Ok((versions, unreadable))
    }
}
