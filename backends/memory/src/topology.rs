//! Declaring, which only adds, and removing.

use event_core::{Error, ErrorKind, QueueKind, QueueSpec, Removal, Result, Topology};

use crate::{error, queue::Arguments, queues::QueueRef, state::State};

impl State {
    /// Declares all of it, or nothing when a queue exists with other arguments.
    pub(crate) fn declare(&mut self, topology: &Topology) -> Result<()> {
        for spec in &topology.queues {
            self.check(spec)?;
        }
        for exchange in &topology.exchanges {
            self.exchanges.declare(exchange);
        }
        for spec in &topology.queues {
            // Again, since one topology may name a queue twice.
            self.check(spec)?;
            if spec.kind == QueueKind::Durable {
                let queue = match self.queues.reference(&spec.name) {
                    Some(queue) => queue,
                    None => self.new_queue(spec, false),
                };
                self.bind(spec, queue);
            }
        }
        Ok(())
    }

    /// Whether what exists is what the spec asks for.
    fn check(&mut self, spec: &QueueSpec) -> Result<()> {
        let (is, asked) = (
            self.queues.named(&spec.name).map(|queue| queue.arguments),
            Arguments::of(spec),
        );
        match (spec.kind, is) {
            (QueueKind::Ephemeral, _) | (QueueKind::Durable, None) => Ok(()),
            (QueueKind::Durable, Some(is)) if is == asked => Ok(()),
            (QueueKind::Durable, Some(is)) => Err(error::mismatch(&spec.name, is, asked)),
            (QueueKind::Existing, None) => Err(error::no_queue(&spec.name)),
            // Its limits are its owner's; but an order that it does not keep cannot be promised.
            (QueueKind::Existing, Some(is)) if asked.ordered && !is.ordered => {
                Err(error::mismatch(
                    &spec.name,
                    is,
                    Arguments {
                        ordered: true,
                        ..is
                    },
                ))
            }
            (QueueKind::Existing, Some(_)) => Ok(()),
            (kind, _) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "queue `{}` is of a kind that the backend `memory` does not know: {kind:?}",
                    spec.name
                ),
            )),
        }
    }

    /// The queue to consume: one that exists, or a fresh ephemeral one.
    pub(crate) fn queue_for(&mut self, spec: &QueueSpec) -> Result<QueueRef> {
        self.check(spec)?;
        if spec.kind == QueueKind::Ephemeral {
            let queue = self.new_queue(spec, true);
            self.bind(spec, queue);
            return Ok(queue);
        }
        self.queues
            .reference(&spec.name)
            .ok_or_else(|| error::no_queue(&spec.name))
    }

    fn bind(&mut self, spec: &QueueSpec, queue: QueueRef) {
        let Some(found) = self.queues.get(queue) else {
            return;
        };
        for binding in &spec.bindings {
            if found.bindings.insert(binding.clone()) {
                self.exchanges.bind(binding, queue.index);
            }
        }
    }

    pub(crate) fn remove(&mut self, removal: &Removal) -> Result<()> {
        let name = match removal {
            Removal::Binding { queue, .. }
            | Removal::OtherBindings { queue, .. }
            | Removal::Queue(queue) => queue,
            other => {
                let text = format!("the backend `memory` does not know how to remove {other:?}");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        };
        let Some(index) = self.queues.find(name) else {
            return Ok(());
        };
        let Some(queue) = self.queues.at(index) else {
            return Ok(());
        };
        match removal {
            Removal::Binding { binding, .. } => {
                if queue.bindings.remove(binding) {
                    self.exchanges.unbind(binding, index);
                }
            }
            Removal::OtherBindings { keep, .. } => {
                let (keep, rest) = std::mem::take(&mut queue.bindings)
                    .into_iter()
                    .partition(|binding| keep.contains(binding));
                queue.bindings = keep;
                self.exchanges.unbind_all(&rest, index);
            }
            _ => self.delete_queue(index),
        }
        Ok(())
    }
}
