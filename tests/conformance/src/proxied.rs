//! A fixture for a real broker whose connections can be cut and made silent.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use event_core::{Error, ErrorKind, Result, Transport};
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::{
    fixture::{Fixture, Impossible},
    proxy::Proxy,
};

type Connect = dyn Fn(String) -> BoxFuture<'static, Result<Arc<dyn Transport>>> + Send + Sync;

/// A real broker behind a [`Proxy`] of its own: the [`Fixture`] that the suite needs for all of its cases.
pub struct Proxied {
    url: Arc<str>,
    connect: Arc<Connect>,
    max_message: Option<usize>,
    proxy: OnceCell<Proxy>,
}

impl Proxied {
    /// The broker at this URL, to which this connects: it is given the same URL with the proxy's address.
    pub fn new(
        url: impl Into<Arc<str>>,
        connect: impl Fn(String) -> BoxFuture<'static, Result<Arc<dyn Transport>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            url: url.into(),
            connect: Arc::new(connect),
            max_message: None,
            proxy: OnceCell::new(),
        }
    }

    /// The same with the largest payload that the broker takes.
    pub fn with_max_message(mut self, bytes: usize) -> Self {
        self.max_message = Some(bytes);
        self
    }

    async fn proxy(&self) -> Result<&Proxy> {
        let started = self.proxy.get_or_try_init(|| Proxy::before(&self.url));
        started.await.map_err(|error| {
            Error::new(ErrorKind::Connection, "cannot start a proxy").with_source(error)
        })
    }

    async fn with_proxy(&self, act: impl FnOnce(&Proxy)) -> Result<(), Impossible> {
        let proxy = self.proxy().await;
        act(proxy.map_err(|_| Impossible("there is no proxy"))?);
        Ok(())
    }
}

#[async_trait]
impl Fixture for Proxied {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        let url = self.proxy().await?.url(&self.url);
        (self.connect)(url).await
    }

    fn max_message(&self) -> Option<usize> {
        self.max_message
    }

    async fn disconnect(&self) -> Result<(), Impossible> {
        self.with_proxy(Proxy::cut).await
    }

    async fn outage(&self, on: bool) -> Result<(), Impossible> {
        self.with_proxy(|proxy| proxy.silence(on)).await
    }
}

impl fmt::Debug for Proxied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxied")
            .field("proxy", &self.proxy.get())
            .finish_non_exhaustive()
    }
}
