//! Writes the alerts of a mark.

use crate::alert::{Alert, Change, EpisodeAlert, Level};
use crate::baseline::Baseline;
use crate::clock::DAY_MS;
use crate::cloudevent::CloudEvent;
use crate::drift::look::{CLUSTERS, ERROR, TARGET, judged_series};
use crate::spec::Spec;
use crate::status::Episode;
use crate::summary::Slice;

use super::explain::Case;
use super::onset::{By, onset, ranks};
use super::request::At;
use super::sight::{Seen, Views};
use super::windows::{ONSET_DAYS, Windows};
use super::words;

/// Finds when a cause's change began.
pub(crate) fn find_onset(windows: &Windows, baseline: &Baseline, spec: &Spec, cause: &str, seen: &Seen) -> Option<i64> {
    match cause {
        ERROR => onset(windows.recent(), By::Error { series: judged_series(baseline) }),
        TARGET => onset(windows.recent(), By::Target { ranks: &ranks(&baseline.target.counts) }),
        CLUSTERS => {
            let bins = baseline.clusters.as_ref()?.counts.len();
            onset(windows.recent(), By::Column { column: baseline.columns.len(), bins })
        }
        _ => {
            let column = seen.column.or_else(|| spec.causes().get(cause).map(|members| members[0]))?;
            onset(windows.recent(), By::Column { column, bins: baseline.columns.get(column)?.counts.len() })
        }
    }
}

/// Everything that the alerts of one mark are written from.
pub(crate) struct Teller<'a> {
    /// The windows.
    pub(crate) windows: &'a Windows,
    /// What they say.
    pub(crate) views: &'a Views<'a>,
    /// What they are held against.
    pub(crate) baseline: Option<&'a Baseline>,
    /// Where.
    pub(crate) at: At<'a>,
    /// The status of the mark.
    pub(crate) status: Level,
    /// What limits its verdict.
    pub(crate) caveats: &'a [String],
}

impl Teller<'_> {
    /// Returns the alert about what became of an episode, with the key of its record.
    pub(crate) fn tell(&self, cause: &str, episode: &Episode, change: Change, seen: Option<&Seen>) -> (String, CloudEvent) {
        let (spec, mark) = (self.at.spec, self.at.mark);
        let begins = matches!(change, Change::Opened | Change::Escalated);
        let column = seen.and_then(|seen| seen.column);
        let mut distributions = vec![];
        let mut carriers = vec![];
        let mut features = vec![];
        let mut recommendations = vec![];
        let days = self.views.clearest(cause);
        if let (Some(baseline), Some(now), true) = (self.baseline, days.and_then(|days| self.windows.sum(days)), begins) {
            let end_ms = self.at.at_ms;
            let (before_onset, since_onset) = match episode.onset_ms {
                Some(onset_ms) => (self.windows.between(end_ms - ONSET_DAYS * DAY_MS, onset_ms), self.windows.between(onset_ms, end_ms)),
                None => (Slice::default(), now.clone()),
            };
            let case = Case { spec, baseline, now, before_onset: &before_onset, since_onset: &since_onset };
            distributions = case.distributions(cause, |column| self.views.column_psi(column, &[days.unwrap_or(0)]));
            carriers = case.carriers(cause, column);
            features = case.moved(cause);
            recommendations = case.recommendations(cause, column, &carriers);
        }
        let evidence = seen.map(|seen| seen.evidence.clone()).unwrap_or_default();
        let alert = EpisodeAlert {
            spec: spec.name.clone(),
            model: spec.model.clone(),
            cause: cause.to_owned(),
            change,
            level: episode.level,
            episode: episode.id.clone(),
            mark,
            at_ms: self.at.at_ms,
            baseline: self.at.baseline,
            status: self.status,
            summary: words::alert(cause, change, episode, &evidence, &features),
            onset_ms: episode.onset_ms,
            evidence,
            distributions,
            carriers,
            features,
            recommendations,
            caveats: self.caveats.to_vec(),
        };
        let id = format!("{}-{}-{mark}", episode.id, change.name());
        (cause.to_owned(), Alert::Episode(Box::new(alert)).event(&spec.name, id, self.at.at_ms, cause))
    }
}
