//! The URL of a broker, taken apart, for people who write backends.

use std::{fmt, fs};

use percent_encoding::percent_decode_str;

use crate::error::{Error, ErrorKind, Result};

/// The URL of a broker, taken apart: `scheme://user:password@host:port,host/path?option=value`.
///
/// Nothing that is shown of it, neither `Debug` nor an error, has the password in it, also not a piece of one that
/// was written without the `%` signs that it needs.
#[derive(Clone)]
pub struct BrokerUrl {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, Option<u16>)>,
    path: String,
    nested: bool,
    options: Vec<(String, String)>,
    form: UrlForm,
}

/// How a URL of one broker looks, for what is said about a wrong one.
#[derive(Clone, Copy, Debug)]
pub struct UrlForm {
    /// The broker, for people.
    pub broker: &'static str,
    /// The schemes, without `://`.
    pub schemes: &'static [&'static str],
    /// A URL as it should be.
    pub example: &'static str,
}

impl UrlForm {
    /// The error for a URL that is not of this form. The URL itself is not shown: it may hold a password.
    pub fn wrong(self, what: &str) -> Error {
        Error::new(
            ErrorKind::InvalidUrl,
            format!(
                "not a URL for {}: {what}; write it as {}",
                self.broker, self.example
            ),
        )
    }

    /// Takes a URL apart. Without a host there is `localhost`; several stand behind each other with commas.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidUrl`] says what is wrong, without the password.
    pub fn parse(self, url: &str) -> Result<BrokerUrl> {
        let parts = url.split_once("://");
        let Some((scheme, rest)) = parts.filter(|(scheme, _)| self.schemes.contains(scheme)) else {
            let schemes: Vec<_> = self.schemes.iter().map(|s| format!("`{s}://`")).collect();
            return Err(self.wrong(&format!("it does not begin with {}", schemes.join(" or "))));
        };
        if rest.contains('#') {
            return Err(self.wrong("it contains `#`; write it as `%23`"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') {
            return Err(self.wrong(
                "there is an `@` behind the `?`; write `?` as `%3F` in a user or a password, and `@` as `%40`",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err(self.wrong(
                "there is an `@` behind a `/`; write `/` as `%2F` in a user or a password, and `@` as `%40`",
            ));
        }
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (user, password) = match user {
            None => (None, None),
            Some(user) => match user.split_once(':') {
                Some((user, password)) => (Some(user), Some(password)),
                None => (Some(user), None),
            },
        };
        let decode = |text: Option<&str>, what: &str| -> Result<Option<String>> {
            text.map(|text| self.decode(text, what)).transpose()
        };
        let mut options = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            options.push((name.to_owned(), self.decode(value, "option")?));
        }
        Ok(BrokerUrl {
            scheme: scheme.to_owned(),
            user: decode(user, "user")?,
            password: decode(password, "password")?,
            hosts: hosts
                .split(',')
                .map(|host| self.host(host))
                .collect::<Result<_>>()?,
            path: self.decode(path, "path")?,
            nested: path.contains('/'),
            options,
            form: self,
        })
    }

    fn decode(self, text: &str, what: &str) -> Result<String> {
        match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(self.wrong(&format!("its {what} is not UTF-8"))),
        }
    }

    fn host(self, text: &str) -> Result<(String, Option<u16>)> {
        let wrong_host =
            || self.wrong("a host is a name or an address, an IPv6 address in brackets");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong_host)?;
                (host, rest.strip_prefix(':'))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if !host.chars().all(legal) {
            return Err(wrong_host());
        }
        let port = port.map(|port| {
            // Not repeated: behind a password with a `/` in it, this may be a piece of it.
            port.parse().map_err(|_| {
                self.wrong(
                    "a port is a number up to 65535 (if a password contains `/`, write it as `%2F`)",
                )
            })
        });
        let host = if host.is_empty() { "localhost" } else { host };
        Ok((host.to_owned(), port.transpose()?))
    }
}

impl BrokerUrl {
    /// The scheme, without `://`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user, if there is one; it may be empty.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, if there is one. Not to be shown.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The hosts with their ports, as far as those are given; at least one.
    pub fn hosts(&self) -> &[(String, Option<u16>)] {
        &self.hosts
    }

    /// What stands behind the first `/` after the hosts.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether there is a further `/` in the path, one that was not written as `%2F`.
    pub fn is_nested(&self) -> bool {
        self.nested
    }

    /// The error for something wrong in this URL.
    pub fn wrong(&self, what: &str) -> Error {
        self.form.wrong(what)
    }

    /// The options, each to be read with the methods of [`UrlOption`], after it was seen that all are known.
    ///
    /// # Errors
    /// One of them is not among these.
    pub fn options<'a>(
        &'a self,
        known: &[&str],
    ) -> Result<impl Iterator<Item = UrlOption<'a>> + use<'a>> {
        self.options_and(known, &|_| false)
    }

    /// The error for the name of an unknown option that may be the rest of a password, in which an `&` was not escaped:
    /// it does not show the name.
    pub fn rest_of_secret(&self, name: &str) -> Option<Error> {
        let mut before = self.options.iter().take_while(|(known, _)| known != name);
        let is_secret = |name: &str| name.contains("password") || name.contains("secret");
        before.any(|(known, _)| is_secret(known)).then(|| {
            self.wrong("an option behind a password is not known; an `&` within a password is written `%26`")
        })
    }

    /// The options, where those with certain names are known to somebody else, such as the client.
    ///
    /// # Errors
    /// One of them is not among these.
    pub fn options_and<'a>(
        &'a self,
        known: &[&str],
        elsewhere: &dyn Fn(&str) -> bool,
    ) -> Result<impl Iterator<Item = UrlOption<'a>> + use<'a>> {
        for (name, _) in &self.options {
            if !known.contains(&name.as_str()) && !elsewhere(name) {
                if let Some(error) = self.rest_of_secret(name) {
                    return Err(error);
                }
                let shown: String = name.chars().take(40).collect();
                let known: Vec<_> = known.iter().map(|known| format!("`{known}`")).collect();
                return Err(self.wrong(&format!(
                    "`{}` is not an option; there are {}",
                    shown.escape_debug(),
                    known.join(", ")
                )));
            }
        }
        Ok(self.options.iter().map(|(name, value)| UrlOption {
            name,
            value,
            form: self.form,
        }))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerUrl")
            .field("scheme", &self.scheme)
            .field("user", &self.user)
            .field("hosts", &self.hosts)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// An option of a [`BrokerUrl`]: `name=value`.
#[derive(Clone, Copy)]
pub struct UrlOption<'a> {
    name: &'a str,
    value: &'a str,
    form: UrlForm,
}

impl<'a> UrlOption<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its value; empty when there is none.
    pub fn text(&self) -> &'a str {
        self.value
    }

    /// Its value as a number.
    ///
    /// # Errors
    /// It is none, or not within these.
    pub fn number(&self, least: u64, most: u64) -> Result<u64> {
        match self.value.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.form.wrong(&format!(
                "`{}` is a number from {least} to {most}",
                self.name
            ))),
        }
    }

    /// Whether it is on: `true` and nothing at all, or `false`.
    ///
    /// # Errors
    /// It is neither.
    pub fn is_on(&self) -> Result<bool> {
        match self.value {
            "" | "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self
                .form
                .wrong(&format!("`{}` is `true` or `false`", self.name))),
        }
    }

    /// What stands in the file that it names.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn file(&self) -> Result<String> {
        fs::read_to_string(self.value).map_err(|error| {
            let what = format!(
                "the file `{}` of `{}` cannot be read",
                self.value, self.name
            );
            self.form.wrong(&what).with_source(error)
        })
    }
}

impl fmt::Debug for UrlOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UrlOption").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: UrlForm = UrlForm {
        broker: "Post",
        schemes: &["post", "posts"],
        example: "`post://user:password@host`",
    };

    #[test]
    fn everything_can_be_said() {
        let url = "posts://anna:s%2Fe%40cret@one,two:5673,[::1]:5674/sh%2Fop?wait=5&on&ca=%41";
        let url = FORM.parse(url).unwrap();
        assert_eq!((url.scheme(), url.path()), ("posts", "sh/op"));
        assert!(!url.is_nested() && FORM.parse("post://a/b/c").unwrap().is_nested());
        assert_eq!(
            (url.user(), url.password()),
            (Some("anna"), Some("s/e@cret"))
        );
        let hosts = [
            ("one".to_owned(), None),
            ("two".to_owned(), Some(5673)),
            ("::1".to_owned(), Some(5674)),
        ];
        assert_eq!(url.hosts(), hosts);
        let options: Vec<_> = url.options(&["wait", "on", "ca"]).unwrap().collect();
        assert_eq!(options[0].number(1, 5).unwrap(), 5);
        assert!(options[1].is_on().unwrap());
        assert_eq!(options[2].text(), "A");
        assert!(!format!("{url:?} {options:?}").contains("cret"));
    }

    #[test]
    fn the_rest_of_a_password_is_not_shown() {
        let url = FORM
            .parse("post://a?on&sasl.password=s3&cret&late")
            .unwrap();
        let known = ["on", "sasl.password", "late"];
        let error = url.options(&known).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains("`%26`") && !error.contains("cret"),
            "{error}"
        );
        let is_hidden = |name| url.rest_of_secret(name).is_some();
        assert!(is_hidden("late") && !is_hidden("on") && !is_hidden("sasl.password"));
    }

    #[test]
    fn what_is_not_said_is_not_there() {
        for text in ["post://", "post://localhost", "post://localhost/"] {
            let url = FORM.parse(text).unwrap();
            assert_eq!(url.hosts(), [("localhost".to_owned(), None)], "{text}");
            assert_eq!(
                (url.user(), url.password(), url.path()),
                (None, None, ""),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, what) in [
            ("redis://localhost", "does not begin with `post://` or"),
            ("post://anna:se/cret@host/path", "%2F"),
            ("post://anna:5/cret@host/path", "%2F"),
            ("post://anna:se#cret@host/path", "%23"),
            ("post://anna:12?cret@host/v", "%3F"),
            ("post://anna:secret@host:70000", "port"),
            ("post://anna:secret@ho st", "host"),
            ("post://anna:%ff@host", "UTF-8"),
        ] {
            let error = FORM.parse(text).unwrap_err();
            let shown = error.to_string();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{text}");
            assert!(shown.contains(what), "{text}: {shown}");
            assert!(!shown.contains("cret"), "{shown}");
        }
        let url = FORM.parse("post://host?no=such&w=9&on=2&f=/no/x").unwrap();
        let error = url.options(&["w"]).map(drop).unwrap_err().to_string();
        assert!(error.contains("`no` is not an option; there are `w`"));
        let options: Vec<_> = url.options(&["no", "w", "on", "f"]).unwrap().collect();
        for (error, what) in [
            (options[1].number(1, 5).map(drop), "`w` is a number from 1"),
            (options[2].is_on().map(drop), "`on` is `true` or"),
            (options[3].file().map(drop), "the file `/no/x` of `f`"),
        ] {
            let shown = error.unwrap_err().to_string();
            assert!(shown.contains(what), "{shown}");
        }
    }
}
