//! An event that MongoDB cannot send, because it passes 16 MB: what stands before it is read one by one, it becomes a dead letter by
//! its key, and the stream goes on behind it.
//!
//! Our pipeline drops what is large before the server makes an event of it, so it takes a status or an id that a projection cannot
//! spell (a name with a dot), below which megabytes lie in both images.

use bson::RawBsonRef;

use super::super::source::SourceError;
use super::cursor::{From, Unread, View};
use super::decode::events_of;
use super::{Ended, Reader};

/// What the server refuses is larger than this; some KB are those of the event itself.
const LARGEST_BYTES: u64 = (16 << 20) - (64 << 10);
/// Replies in which the large event is looked for: behind those that are not completed, which another view leaves out.
const LOOKED_AT: u32 = 10_000;

impl Reader {
    /// Takes what the server can send, and then what it refuses.
    pub(super) fn pass_too_large(&mut self, refusal: SourceError) -> Result<(), Ended> {
        self.open_here(View::OneByOne)?;
        for _ in 0..self.stream.batch_rows {
            match self.stream.next() {
                Ok(reply) => self.take(&reply)?,
                Err(Unread::TooLarge(_)) => return self.bury(refusal),
                Err(Unread::Failed(error)) => return Err(error.into()),
            }
        }
        // Batches are smaller when they begin elsewhere: perhaps all fit now, else this is tried again from here.
        Ok(self.open_here(View::Whole)?)
    }

    /// Makes a dead letter of the first event that is too large.
    fn bury(&mut self, refusal: SourceError) -> Result<(), Ended> {
        self.open_here(View::Sizes)?;
        for _ in 0..LOOKED_AT {
            let reply = self.stream.next().map_err(SourceError::from)?;
            let events = events_of(reply.as_raw_document()).map_err(|error| self.stream.unavailable(&error.to_string()))?;
            for event in events {
                let bytes = match event.get("bytes") {
                    Ok(Some(RawBsonRef::Int32(bytes))) => u64::try_from(bytes).unwrap_or(0),
                    Ok(Some(RawBsonRef::Int64(bytes))) => u64::try_from(bytes).unwrap_or(0),
                    _ => 0,
                };
                if bytes <= LARGEST_BYTES {
                    continue;
                }
                let taken = self.decoder.too_large(event, bytes).map_err(|error| self.stream.unavailable(&error.to_string()))?;
                let (token, letter) = taken;
                tracing::warn!(bytes, "an event is larger than MongoDB sends; it is a dead letter, and the stream goes on behind it");
                self.send(letter.into_iter().collect())?;
                return Ok(self.open(From::Token(token), View::Whole)?);
            }
        }
        Err(refusal.into())
    }
}
