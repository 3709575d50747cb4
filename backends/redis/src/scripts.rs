//! What happens on the server as one: each script is atomic, and written so that what is cut short by an error has
//! lost nothing.

use std::sync::LazyLock;

use redis::{Cmd, RedisError, RedisWrite, ServerErrorKind, Value};

use crate::link::{Live, Request};

/// A script and the digest by which the server knows it.
#[derive(Debug)]
pub(crate) struct Script {
    source: &'static str,
    digest: LazyLock<String>,
}

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {
        $(pub(crate) static $name: Script = Script {
            source: concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+),
            digest: LazyLock::new(|| redis::Script::new($name.source).get_hash().to_owned()),
        };)*

        /// All of them, to be loaded with each connection.
        static ALL: &[&Script] = &[$(&$name),*];
    };
}

scripts! {
    ACKNOWLEDGE = "acknowledge";
    DECLARE = "common/table" "declare";
    DELETE = "common/table" "delete";
    ISOLATE = "isolate";
    LEAVE = "leave";
    PUBLISH = "common/table" "publish";
    RECOVER = "recover";
    REGISTER = "register";
    RENEW = "renew";
    REPLAY = "replay";
    SETTLE = "settle";
    TABLE = "common/table" "table";
    TIDY = "tidy";
    UNBIND = "common/table" "unbind";
    UNREGISTER = "unregister";
}

/// A call of a script: the keys first, then the arguments.
#[derive(Debug)]
pub(crate) struct Call {
    script: &'static Script,
    cmd: Cmd,
}

impl Script {
    /// A call with these keys, to be given its arguments.
    pub(crate) fn call<'k>(
        &'static self,
        keys: impl IntoIterator<Item = &'k str, IntoIter: ExactSizeIterator>,
    ) -> Call {
        let keys = keys.into_iter();
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&*self.digest).arg(keys.len());
        for key in keys {
            cmd.arg(key);
        }
        Call { script: self, cmd }
    }

    /// A call by its text, for a server that has forgotten it.
    pub(crate) fn load(&self) -> Cmd {
        let mut cmd = Cmd::new();
        cmd.arg("SCRIPT").arg("LOAD").arg(self.source);
        cmd
    }
}

impl Call {
    pub(crate) fn arg(mut self, arg: impl redis::ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    pub(crate) fn push(&mut self, arg: impl redis::ToRedisArgs) {
        self.cmd.arg(arg);
    }

    /// Makes room for so many arguments, with so many bytes altogether.
    pub(crate) fn reserve(&mut self, args: usize, bytes: usize) {
        let empty = std::iter::repeat_n(0, args);
        self.cmd
            .reserve_space_for_args(std::iter::once(bytes).chain(empty));
    }

    /// What has the server know the script again.
    pub(crate) fn load(&self) -> Cmd {
        self.script.load()
    }

    pub(crate) fn cmd(&self) -> &Cmd {
        &self.cmd
    }
}

impl Request for Call {
    /// Runs it, and once more when the server has forgotten the script.
    async fn send(&self, live: &Live) -> Result<Value, RedisError> {
        match live.ask(&self.cmd).await {
            Err(error) if is_forgotten(&error) => {
                live.ask(&self.script.load()).await?;
                live.ask(&self.cmd).await
            }
            answer => answer,
        }
    }
}

pub(crate) fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Has the server know all of them.
pub(crate) async fn load(live: &Live) -> Result<(), RedisError> {
    for script in ALL {
        live.ask(&script.load()).await?;
    }
    Ok(())
}
