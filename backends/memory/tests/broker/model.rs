//! The broker against a model of a few lines: random calls, the same answers.

use std::{collections::BTreeMap, time::Duration};

use event_core::{Delivery, Settled, Subscription, Transport};
use event_memory::{MemoryBroker, MemoryTransport};
use proptest::prelude::*;
use tokio::time::{Instant, advance};

use crate::support::*;

const CONSUMERS: usize = 3;
const LEASE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Step {
    Publish(usize),
    Next {
        consumer: usize,
        max: usize,
    },
    Ack {
        consumer: usize,
        which: usize,
    },
    Release {
        consumer: usize,
        which: usize,
    },
    Retry {
        consumer: usize,
        which: usize,
        delay: u64,
    },
    Bury {
        consumer: usize,
        which: usize,
    },
    /// Settles something a second time.
    Repeat {
        consumer: usize,
        which: usize,
    },
    Crash {
        consumer: usize,
    },
    Disconnect,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (consumer, which) = (0..CONSUMERS, 0..64_usize);
    let settled = (consumer.clone(), which.clone());
    prop_oneof![
        4 => (1..6_usize).prop_map(Step::Publish),
        6 => (consumer.clone(), 1..6_usize).prop_map(|(consumer, max)| Step::Next { consumer, max }),
        4 => settled.clone().prop_map(|(consumer, which)| Step::Ack { consumer, which }),
        2 => settled.clone().prop_map(|(consumer, which)| Step::Release { consumer, which }),
        2 => (consumer.clone(), which, 0..40_000_u64)
            .prop_map(|(consumer, which, delay)| Step::Retry { consumer, which, delay }),
        1 => settled.clone().prop_map(|(consumer, which)| Step::Bury { consumer, which }),
        1 => settled.prop_map(|(consumer, which)| Step::Repeat { consumer, which }),
        1 => consumer.prop_map(|consumer| Step::Crash { consumer }),
        1 => Just(Step::Disconnect),
        2 => (0..40_000_u64).prop_map(Step::Advance),
    ]
}

/// A message, as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    number: usize,
    redeliveries: u32,
    suspect: bool,
}

/// What the queue should be. Places are ascending and mean the order; nothing else is ordered.
#[derive(Default)]
struct Model {
    place: u64,
    ready: BTreeMap<u64, Known>,
    delayed: Vec<(Instant, Known)>,
    held: [Vec<(u64, Known, Delivery)>; CONSUMERS],
    /// What crashed consumers held, and until when.
    leased: Vec<(Instant, u64, Known)>,
    spent: [Vec<Delivery>; CONSUMERS],
    dead: Vec<usize>,
    acked: usize,
    published: usize,
}

impl Model {
    fn put(&mut self, known: Known) {
        self.place += 1;
        self.ready.insert(self.place, known);
    }

    fn advance(&mut self) {
        let now = Instant::now();
        self.delayed.sort_by_key(|(due, _)| *due);
        for (_, known) in self
            .delayed
            .extract_if(.., |(due, _)| *due <= now)
            .collect::<Vec<_>>()
        {
            self.put(known);
        }
        for (_, place, known) in self.leased.extract_if(.., |(until, ..)| *until <= now) {
            let redeliveries = known.redeliveries + 1;
            self.ready.insert(
                place,
                Known {
                    redeliveries,
                    suspect: true,
                    ..known
                },
            );
        }
    }

    fn all(&self) -> usize {
        let held: usize = self.held.iter().map(Vec::len).sum();
        self.ready.len()
            + self.delayed.len()
            + held
            + self.leased.len()
            + self.dead.len()
            + self.acked
    }
}

struct World {
    broker: MemoryBroker,
    transport: MemoryTransport,
    consumers: Vec<Subscription>,
    model: Model,
}

impl World {
    async fn new() -> Self {
        let broker = MemoryBroker::new();
        let transport = broker.connect();
        declare(&transport, &spec()).await.unwrap();
        let mut consumers = Vec::new();
        for _ in 0..CONSUMERS {
            consumers.push(transport.consume(&spec()).await.unwrap());
        }
        Self {
            broker,
            transport,
            consumers,
            model: Model::default(),
        }
    }

    /// Takes a delivery that the consumer holds off the model.
    fn held(&mut self, consumer: usize, which: usize) -> Option<(u64, Known, Delivery)> {
        let held = &mut self.model.held[consumer];
        let entry = (!held.is_empty()).then(|| held.remove(which % held.len()))?;
        self.model.spent[consumer].push(entry.2.clone());
        Some(entry)
    }

    async fn take(&mut self, step: Step) {
        let model = &mut self.model;
        match step {
            Step::Publish(count) => {
                let numbers = model.published..model.published + count;
                model.published += count;
                for number in numbers.clone() {
                    model.put(Known {
                        number,
                        redeliveries: 0,
                        suspect: false,
                    });
                }
                publish_orders(&self.transport, numbers).await;
            }
            Step::Next { consumer, max } => {
                let got = batch_now(&mut self.consumers[consumer], max);
                let expected: Vec<(u64, Known)> =
                    (0..max).map_while(|_| model.ready.pop_first()).collect();
                assert_eq!(got.len(), expected.len());
                assert!(got.is_sorted_by_key(|delivery| delivery.tag()));
                for (delivery, (place, known)) in got.into_iter().zip(expected) {
                    let is = Known {
                        number: number(delivery.message()),
                        redeliveries: delivery.redeliveries(),
                        suspect: delivery.is_suspect(),
                    };
                    assert_eq!(is, known);
                    model.held[consumer].push((place, known, delivery));
                }
            }
            Step::Ack { consumer, which } => {
                let Some((_, _, delivery)) = self.held(consumer, which) else {
                    return;
                };
                self.model.acked += 1;
                assert_eq!(
                    ack(&self.consumers[consumer], &delivery).await.unwrap(),
                    Settled::Done
                );
            }
            Step::Release { consumer, which } => {
                let Some((place, known, delivery)) = self.held(consumer, which) else {
                    return;
                };
                self.model.ready.insert(place, known);
                release(&self.consumers[consumer], &delivery).await;
            }
            Step::Retry {
                consumer,
                which,
                delay,
            } => {
                let Some((_, known, delivery)) = self.held(consumer, which) else {
                    return;
                };
                let delay = Duration::from_millis(delay);
                let copy = Known {
                    redeliveries: 0,
                    suspect: false,
                    ..known
                };
                self.model.delayed.push((Instant::now() + delay, copy));
                retry(&self.consumers[consumer], &delivery, delay).await;
            }
            Step::Bury { consumer, which } => {
                let Some((_, known, delivery)) = self.held(consumer, which) else {
                    return;
                };
                self.model.dead.push(known.number);
                bury(&self.consumers[consumer], &delivery).await;
            }
            Step::Repeat { consumer, which } => {
                let spent = &self.model.spent[consumer];
                let Some(delivery) = (!spent.is_empty()).then(|| &spent[which % spent.len()])
                else {
                    return;
                };
                assert!(lost(ack(&self.consumers[consumer], delivery).await));
            }
            Step::Crash { consumer } => {
                let until = Instant::now() + LEASE;
                for (place, known, _) in model.held[consumer].drain(..) {
                    model.leased.push((until, place, known));
                }
                model.spent[consumer].clear();
                self.consumers[consumer] = self.transport.consume(&spec()).await.unwrap();
            }
            Step::Disconnect => {
                for consumer in 0..CONSUMERS {
                    for (place, known, delivery) in std::mem::take(&mut model.held[consumer]) {
                        let redeliveries = known.redeliveries + 1;
                        model.ready.insert(
                            place,
                            Known {
                                redeliveries,
                                ..known
                            },
                        );
                        model.spent[consumer].push(delivery);
                    }
                }
                self.broker.disconnect_all();
            }
            Step::Advance(millis) => {
                advance(Duration::from_millis(millis)).await;
                self.model.advance();
            }
        }
    }

    async fn check(&mut self) {
        self.model.advance();
        let (model, state) = (&self.model, self.broker.queue_state(QUEUE).unwrap());
        let held: usize = model.held.iter().map(Vec::len).sum();
        assert_eq!(state.ready, model.ready.len());
        assert_eq!(state.held, held + model.leased.len());
        assert_eq!(state.delayed, model.delayed.len());
        assert_eq!(state.consumers, CONSUMERS);
        assert_eq!(
            model.all(),
            model.published,
            "nothing is lost and nothing doubled"
        );
        let letters = self
            .transport
            .dead_letters(QUEUE)
            .await
            .unwrap()
            .list(None, usize::MAX)
            .await
            .unwrap();
        let dead: Vec<usize> = letters
            .iter()
            .map(|letter| number(letter.message()))
            .collect();
        assert_eq!(dead, model.dead);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_have_the_answers_of_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
                world.check().await;
            }
        });
    }
}
