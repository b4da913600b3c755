//! What tools of Kafka's do to groups while nobody is a member: offsets are deleted, set back, set forth, set by a stranger's words.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::campaign::{Dice, Seeds, Story, run};
use super::check::Checker;
use super::flow::{self, Slot};
use crate::support::mongo::runtime;
use crate::support::{Deployment, Process, kafka, wait_until};

/// How often the groups are meddled with in one run.
const ACTS: usize = 5;
/// Runs of the test that every change has to pass.
const SEEDS: u64 = 2;
/// A member that was killed is missed after its session.
const LIMIT: Duration = Duration::from_mins(1);
const ASK: Duration = Duration::from_secs(10);

/// What is done to the offsets of a group.
#[derive(Clone, Copy)]
enum Act {
    Delete,
    ToTheBeginning,
    ToTheEnd,
    Anywhere,
    /// Where they are, with metadata of a stranger's.
    Words,
}

impl Act {
    const ALL: [Self; 5] = [Self::Delete, Self::ToTheBeginning, Self::ToTheEnd, Self::Anywhere, Self::Words];

    fn name(self) -> &'static str {
        match self {
            Self::Delete => "groups deleted",
            Self::ToTheBeginning => "offsets set to the beginning",
            Self::ToTheEnd => "offsets set to the end",
            Self::Anywhere => "offsets set anywhere",
            Self::Words => "metadata replaced",
        }
    }
}

/// Deletes a group, as `kafka-consumer-groups.sh --delete` does, once it has no member.
fn delete(group: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &kafka().bootstrap_servers).create().expect("a valid configuration");
    wait_until("the group can be deleted", LIMIT, || {
        let deleted = runtime().block_on(admin.delete_groups(&[group], &AdminOptions::new())).expect("the broker answers");
        // Where nothing was ever committed there is no group.
        deleted.iter().all(|one| !matches!(one, Err((_, code)) if *code != rdkafka::types::RDKafkaErrorCode::GroupIdNotFound)).then_some(())
    });
}

/// Sets a group's offsets on a topic, as `kafka-consumer-groups.sh --reset-offsets` does, once it has no member.
fn set(act: Act, group: &str, topic: &str, partitions: i32, dice: &mut Dice) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka().bootstrap_servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .expect("a valid configuration");
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        asked.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(asked, ASK).expect("the broker answers");
    let mut offsets = TopicPartitionList::new();
    for partition in 0..partitions {
        let (low, end) = consumer.fetch_watermarks(topic, partition, ASK).expect("the broker answers");
        let offset = match act {
            Act::ToTheBeginning => low,
            Act::ToTheEnd => end,
            Act::Anywhere => {
                let room = usize::try_from(end - low).expect("no end is before its beginning");
                low + i64::try_from(dice.roll(room + 1)).expect("it is an offset")
            }
            Act::Words | Act::Delete => match committed.find_partition(topic, partition).expect("it was asked for").offset() {
                Offset::Offset(offset) => offset,
                _ => continue,
            },
        };
        let mut entry = offsets.add_partition(topic, partition);
        entry.set_offset(Offset::Offset(offset)).expect("it is an offset");
        if matches!(act, Act::Words) {
            entry.set_metadata("{\"place\":");
        }
    }
    if offsets.count() == 0 {
        return;
    }
    // While a member that was killed is not missed yet, its group takes no offsets of others.
    wait_until("the group takes offsets", LIMIT, || match consumer.commit(&offsets, CommitMode::Sync) {
        Ok(()) => Some(()),
        Err(KafkaError::ConsumerCommit(_)) => None,
        Err(error) => panic!("{group}: {error}"),
    });
}

struct Run<'r> {
    deployment: Deployment,
    dice: Dice,
    slots: Vec<Slot>,
    story: &'r mut Story,
}

impl Run<'_> {
    /// Whether there is reason to wait on: nobody may end by itself.
    fn goes_on(&mut self) -> bool {
        flow::nobody_ended(&mut self.slots, self.story)
    }

    fn start(&mut self) {
        for slot in &mut self.slots {
            slot.process = Some(slot.start(&self.deployment, &[]));
        }
    }

    fn meddle(&mut self, checker: &Checker) {
        let act = Act::ALL[self.dice.roll(Act::ALL.len())];
        self.story.fault(act.name());
        let prefix = self.deployment.prefix.clone();
        let tickets = i32::try_from(flow::PARTITIONS).expect("a few");
        let of = [
            (format!("{prefix}.watch"), &checker.topics.tickets, tickets),
            (format!("{prefix}.judge"), &checker.topics.summaries, 1),
            (format!("{prefix}.tail"), &checker.topics.positions, 1),
        ];
        // One of them, or all.
        let chosen = self.dice.roll(of.len() + 1);
        for (at, (group, topic, partitions)) in of.iter().enumerate() {
            if chosen == at || chosen == of.len() {
                self.story.tell(format!("{group}: {}", act.name()));
                match act {
                    Act::Delete => delete(group),
                    _ => set(act, group, topic, *partitions, &mut self.dice),
                }
            }
        }
    }

    fn go(&mut self, checker: &Checker) {
        self.start();
        if !flow::until(|| self.goes_on(), || checker.tail_streams()) {
            return self.story.violation("tail did not begin");
        }
        for (number, part) in flow::parts(ACTS + 1).enumerate() {
            self.deployment.insert(part);
            if number == ACTS {
                break;
            }
            std::thread::sleep(Duration::from_millis(300 + self.dice.roll(2_500) as u64));
            if !self.goes_on() {
                return;
            }
            self.slots.iter_mut().filter_map(|slot| slot.process.take()).for_each(Process::kill);
            self.meddle(checker);
            self.start();
        }
        if !flow::until(|| self.goes_on(), || flow::is_done(checker)) {
            flow::is_missing(checker, self.slots.iter().flat_map(|slot| &slot.process), self.story);
        }
    }
}

fn operators(seed: u64, story: &mut Story) {
    let (deployment, checker) = flow::deployment(&format!("operators-{seed}-{}", std::process::id()), &kafka().bootstrap_servers);
    let mut dice = Dice::new(seed);
    let slots = flow::slots(&mut dice);
    let mut run = Run { deployment, dice, slots, story };
    run.go(&checker);
    run.slots.clear();
    flow::check(&checker, story);
}

#[test]
fn offsets_that_a_tool_has_changed_change_nothing() {
    run(Seeds::or(SEEDS), "acts", operators);
}
