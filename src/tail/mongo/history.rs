//! The collection as it is, read beside the stream so that the two meet without a gap and without a repeat.
//!
//! The stream begins at S0. A chunk is read in order of `_id`; the stream is then read on past the server's time after that
//! reading; only then the chunk's rows follow. So every completion after S0 that a chunk may show has come through the stream
//! before, and the core, which remembers those keys, leaves the row out.

use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::{Hint, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::{Client, Collection};

use super::super::normalise::{Normalised, Unreadable, id_of};
use super::super::source::{ClusterTime, Event, HistoryPlace};
use super::{Ended, Reader, SCATTERED, decode, pipeline};
use crate::ticket::Transition;

/// Completed documents in one chunk.
const CHUNK_ROWS: i64 = 10_000;
/// A document of the collection.
struct Row {
    normalised: Normalised,
    last: bytes::Bytes,
}

/// Rows in one list of events.
const PIECE_ROWS: usize = 1_000;

/// Documents that are looked at to estimate how many have completed: that errs by 3 % of the collection at two standard deviations.
const SAMPLE: u64 = 1_000;

/// Returns about how many documents the filter finds, from the size of the collection and a sample of it.
pub(super) async fn rows(client: &Client, collection: &Collection<RawDocumentBuf>, filter: Document) -> mongodb::error::Result<u64> {
    let all = collection.estimated_document_count().await?;
    let sample = all.min(SAMPLE);
    if sample == 0 {
        return Ok(0);
    }
    let pipeline = [
        doc! { "$sample": { "size": i64::try_from(sample).unwrap_or(i64::MAX) } },
        doc! { "$match": filter },
        doc! { "$count": "completed" },
    ];
    let namespace = collection.namespace();
    let mut found = client.database(&namespace.db).collection::<Document>(&namespace.coll).aggregate(pipeline).await?;
    let found = found.try_next().await?;
    let completed = found.and_then(|found| found.get_i32("completed").ok()).map_or(0, i32::unsigned_abs);
    Ok(all.saturating_mul(completed.into()) / sample)
}

/// What to find.
pub(super) struct Query {
    pub(super) filter: Document,
    pub(super) projection: Option<Document>,
    pub(super) not_before: Option<Timestamp>,
    /// In order of `_id`, from this document `{_id: …}` on, itself included.
    pub(super) from: Option<Document>,
    pub(super) limit: Option<i64>,
}

/// Hands documents to `each` one by one, as a majority knows them, on the primary, not before a time: they may be large.
pub(super) async fn find(
    client: &Client,
    collection: &Collection<RawDocumentBuf>,
    query: Query,
    each: &mut dyn FnMut(&RawDocument),
) -> mongodb::error::Result<()> {
    let mut session = client.start_session().causal_consistency(true).await?;
    if let Some(time) = query.not_before {
        session.advance_operation_time(time);
    }
    let mut find = collection
        .find(query.filter)
        .read_concern(ReadConcern::majority())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    if let Some(projection) = query.projection {
        find = find.projection(projection);
    }
    if let Some(limit) = query.limit {
        find = find.limit(limit).hint(Hint::Keys(doc! { "_id": 1 }));
        if let Some(from) = query.from {
            find = find.min(from);
        }
    }
    let mut cursor = find.session(&mut session).await?;
    let mut documents = cursor.stream(&mut session);
    while let Some(document) = documents.try_next().await? {
        each(&document);
    }
    Ok(())
}

impl Reader {
    /// Reads the history, then says so.
    pub(super) fn history(&mut self, history: HistoryPlace) -> Result<(), Ended> {
        let mut last = history.last;
        loop {
            let (rows, is_last) = self.chunk(last.as_deref(), history.since)?;
            let time = self.operation_time()?;
            while !self.decoder.has_passed(time) {
                self.forward()?;
            }
            if let Some(row) = rows.last() {
                last = Some(row.last.clone());
            }
            let mut rows = rows.into_iter().map(|row| Event::Row { normalised: row.normalised, last: row.last });
            loop {
                let piece: Vec<_> = rows.by_ref().take(PIECE_ROWS).collect();
                if piece.is_empty() {
                    break;
                }
                self.send(piece)?;
            }
            if is_last {
                return self.send(vec![Event::HistoryRead]);
            }
        }
    }

    /// Reads the rows after `last`, and whether there are no more.
    fn chunk(&self, last: Option<&[u8]>, since: ClusterTime) -> Result<(Vec<Row>, bool), Ended> {
        let from = last.and_then(|last| RawDocument::from_bytes(last).ok()).and_then(|last| Document::try_from(last).ok());
        let query = Query {
            filter: pipeline::completed_filter(&self.spec),
            projection: pipeline::find_projection(&self.decoder.normaliser().paths()),
            not_before: Some(Timestamp { time: since.0, increment: since.1 }),
            from,
            limit: Some(CHUNK_ROWS),
        };
        let mut rows = Vec::new();
        let mut found = 0;
        let mut unreadable = Unreadable::default();
        let mut take = |document: &RawDocument| {
            found += 1;
            let Some(id) = document.get("_id").ok().flatten() else { return };
            let last_id = decode::id_document(id).into_bytes();
            // The bound is inclusive: the row that was the last is found again.
            if last != Some(last_id.as_slice()) {
                let mut normalised = self.decoder.normaliser().from_bson(document, &mut unreadable);
                match &mut normalised {
                    Normalised::Completed(ticket) => ticket.transition = Transition::History,
                    Normalised::Dead(letter) => letter.document = id_of(id),
                    Normalised::Other(_) => {}
                }
                rows.push(Row { normalised, last: last_id.into() });
            }
        };
        let chunk = find(&self.client, &self.stream.collection, query, &mut take);
        self.stream.wait_for(self.stream.patience.with_a_start() * SCATTERED, chunk)?;
        self.count(&unreadable);
        Ok((rows, found < CHUNK_ROWS))
    }

    /// Returns the server's time now.
    fn operation_time(&self) -> Result<ClusterTime, Ended> {
        let database = self.client.database("admin");
        let hello = self.stream.block_on(async { database.run_command(doc! { "hello": 1 }).await })?;
        let time = hello.get_timestamp("operationTime").map_err(|error| self.stream.unavailable(&error.to_string()))?;
        Ok((time.time, time.increment))
    }
}
