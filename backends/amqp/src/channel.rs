//! A channel of one's own, for requests that have an answer.

use std::{ops::Deref, sync::Arc, time::Duration};

use event_core::Result;
use lapin::Channel;
use tokio::{runtime::Handle, time::sleep};

use crate::{error, link::Live};

/// How long the server may take for one request.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether the connection is still there. lapin leaves a request unanswered that was made
/// in the moment in which the connection was lost.
const LOOK: Duration = Duration::from_millis(100);

/// A channel that ends when it is dropped. lapin's own does so too, but not when a request to consume was given
/// up in the middle: then the consumer would live on, and hold what it is given.
#[derive(Debug)]
pub(crate) struct Owned {
    channel: Channel,
    live: Arc<Live>,
}

/// Opens a channel. An error of one of the requests on it closes it.
pub(crate) async fn open(live: &Arc<Live>) -> Result<Owned> {
    let channel = answer(live, "open a channel", live.connection.create_channel()).await?;
    Ok(Owned {
        channel,
        live: live.clone(),
    })
}

impl Owned {
    /// The answer to a request, if it comes in time.
    pub(crate) async fn answer<T>(
        &self,
        what: &str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        answer(&self.live, what, request).await
    }

    /// Ends it, and waits until the server has heard of it.
    pub(crate) async fn end(&self) {
        end(&self.live, &self.channel).await;
    }
}

async fn answer<T>(
    live: &Live,
    what: &str,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T> {
    let lost = async {
        while !live.is_lost() {
            tokio::select! {
                () = live.lost() => {}
                () = sleep(LOOK) => {}
            }
        }
    };
    tokio::select! {
        biased;
        answer = request => answer.map_err(|error| error::of(what, &error)),
        () = lost => Err(error::lost(what)),
        () = sleep(PATIENCE) => Err(error::silent(what)),
    }
}

async fn end(live: &Live, channel: &Channel) {
    // A channel that is closed already is as good.
    let _ = answer(live, "close a channel", channel.close(200, "done".into())).await;
}

impl Deref for Owned {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.channel.status().connected()
            && let Ok(runtime) = Handle::try_current()
        {
            let (live, channel) = (self.live.clone(), self.channel.clone());
            runtime.spawn(async move { end(&live, &channel).await });
        }
    }
}
