//! Middleware around publishing: tower services over batches of messages.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    error::{BoxError, Error, ErrorKind, Result},
    message::Message,
    transport::{Receipt, Transport},
};

type Results = Vec<Result<Receipt>>;
type BoxPublish = BoxCloneSyncService<Vec<Message>, Results, BoxError>;

/// A [`tower::Layer`] that fits around publishing.
///
/// Implemented for every layer whose service takes a `Vec<Message>`, answers a `Vec<Result<Receipt>>`, and
/// fails with anything that is an error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not fit around publishing",
    note = "the layer's service must be `tower::Service<Vec<Message>, Response = Vec<Result<Receipt>>>`, \
            `Clone + Send + Sync`, with a `Send` future"
)]
pub trait PublishLayer {
    #[doc(hidden)]
    fn wrap(self, inner: PublishStack) -> PublishStack;
}

impl<L> PublishLayer for L
where
    L: Layer<PublishStack>,
    L::Service: Service<Vec<Message>, Response = Results> + Clone + Send + Sync + 'static,
    <L::Service as Service<Vec<Message>>>::Error: Into<BoxError>,
    <L::Service as Service<Vec<Message>>>::Future: Send + 'static,
{
    fn wrap(self, inner: PublishStack) -> PublishStack {
        PublishStack(BoxCloneSyncService::new(
            self.layer(inner).map_err(Into::into),
        ))
    }
}

/// The layers of a bus, kept so that the stack can be built again around another deadline.
#[derive(Clone, Default)]
pub(crate) struct PublishLayers {
    layers: Vec<Arc<dyn Fn(PublishStack) -> PublishStack + Send + Sync>>,
    stack: Option<PublishStack>,
}

impl PublishLayers {
    pub(crate) fn push(&mut self, layer: impl PublishLayer + Clone + Send + Sync + 'static) {
        self.layers
            .push(Arc::new(move |inner| layer.clone().wrap(inner)));
    }

    pub(crate) fn rebuild(&mut self, transport: &Arc<dyn Transport>, deadline: Duration) {
        if !self.layers.is_empty() {
            let base = PublishStack::base(transport.clone(), deadline);
            self.stack = Some(self.layers.iter().fold(base, |inner, layer| layer(inner)));
        }
    }

    /// Nothing when there are no layers: then the transport is called without a detour.
    pub(crate) fn stack(&self) -> Option<&PublishStack> {
        self.stack.as_ref()
    }
}

/// The inner service that a layer around publishing is given.
#[derive(Clone, Debug)]
pub struct PublishStack(BoxPublish);

impl PublishStack {
    fn base(transport: Arc<dyn Transport>, deadline: Duration) -> Self {
        Self(BoxCloneSyncService::new(Base {
            transport,
            deadline,
        }))
    }

    /// Publishes a batch through all layers.
    pub(crate) async fn publish(self, batch: Vec<Message>) -> Results {
        let count = batch.len();
        match self.0.oneshot(batch).await {
            Ok(results) if results.len() == count => results,
            Ok(results) => {
                let text = format!(
                    "a publish layer answered {} results for {count} messages",
                    results.len()
                );
                repeat(Error::new(ErrorKind::Internal, text), count)
            }
            Err(error) => {
                // A layer may pass on an error of ours; anything else, such as a timeout of tower's, may
                // have come before or after the broker took the messages.
                let error = match error.downcast::<Error>() {
                    Ok(ours) => *ours,
                    Err(other) => Error::retryable(ErrorKind::Refused, "a publish layer failed")
                        .with_source(other),
                };
                repeat(error, count)
            }
        }
    }
}

fn repeat(error: Error, count: usize) -> Results {
    (0..count).map(|_| Err(error.clone())).collect()
}

impl Service<Vec<Message>> for PublishStack {
    type Response = Results;
    type Error = BoxError;
    type Future = <BoxPublish as Service<Vec<Message>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, batch: Vec<Message>) -> Self::Future {
        self.0.call(batch)
    }
}

/// What all layers are around: the transport, with its deadline.
#[derive(Clone)]
struct Base {
    transport: Arc<dyn Transport>,
    deadline: Duration,
}

impl Service<Vec<Message>> for Base {
    type Response = Results;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Results, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Vec<Message>) -> Self::Future {
        let Self {
            transport,
            deadline,
        } = self.clone();
        Box::pin(async move { Ok(transport.publish(batch, Instant::now() + deadline).await) })
    }
}
