//! Which options there are, and where each may stand.

/// Where an attribute stands.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// On a struct: what its only event is, or what all of them share.
    Struct,
    /// On a struct: one of several events.
    Event,
    /// On an enum.
    Enum,
    /// On a variant.
    Variant,
    /// On a field of a struct.
    Field,
    /// On the value in a variant.
    Value,
}

impl Place {
    /// Whether an option may stand here.
    pub(crate) fn has(self, name: &str) -> bool {
        self.options().contains(&name)
    }

    /// What to do about an option that may not.
    pub(crate) fn refusal(self, name: &str) -> String {
        if let Some(place) = self.elsewhere(name) {
            return format!("`{name}` {place}");
        }
        let quoted = |option: &&str| format!("`{option}`");
        let known: Vec<String> = self.options().iter().map(quoted).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        let meant = self.nearest(name);
        let hint = meant.map_or_else(String::new, |option| format!(" (did you mean `{option}`?)"));
        format!("unknown option `{name}`{hint}; known here: {known}")
    }

    /// The option that differs from a name by a slip of the finger or two.
    pub(crate) fn nearest(self, name: &str) -> Option<&'static str> {
        let slips = |option: &str| {
            let only_order = sorted(name) == sorted(option);
            if only_order {
                1
            } else {
                distance(name, option)
            }
        };
        let options = self.options().iter();
        let (slips, option) = options.map(|option| (slips(option), *option)).min()?;
        (slips <= option.len() / 3).then_some(option)
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Struct => &[
                "exchange",
                "key",
                "name",
                "codec",
                "content_type",
                "validate",
                "upcasts",
                "crate",
            ],
            Self::Event => &["name", "key", "exchange"],
            Self::Enum => &["exchange", "codec", "content_type", "validate", "crate"],
            Self::Variant => &[
                "key",
                "name",
                "codec",
                "content_type",
                "validate",
                "partition_key",
                "other",
            ],
            Self::Field => &["partition_key"],
            Self::Value => &[],
        }
    }

    /// Where an option goes that exists and has no meaning here.
    fn elsewhere(self, name: &str) -> Option<&'static str> {
        Some(match (self, name) {
            (Self::Struct | Self::Event, "partition_key") => {
                "goes on a field: `#[event(partition_key)] id: u64`"
            }
            (Self::Struct | Self::Event | Self::Field, "other") => "goes on a variant of an enum",
            (Self::Event, "codec" | "content_type" | "validate" | "upcasts" | "crate") => {
                "is shared by all events of the type; write it in an attribute without `name`, beside `exchange`"
            }
            (Self::Enum, "key" | "name" | "partition_key" | "other") => "goes on a variant",
            (Self::Enum | Self::Variant, "upcasts") => {
                "goes on a struct; an enum reads an older key as a variant of its own"
            }
            (Self::Variant, "exchange" | "crate") => {
                "goes on the enum; all of its variants share it"
            }
            (Self::Field, name) if Self::Struct.has(name) => "goes on the type",
            (Self::Value, name) if Self::Variant.has(name) => {
                "goes on the variant, before its name"
            }
            _ => return None,
        })
    }
}

/// An option with its value, for messages.
pub(crate) fn example(option: &str) -> &str {
    match option {
        "exchange" => "exchange = \"order\"",
        "key" => "key = \"order.v1.submit\"",
        "name" => "name = \"submit\"",
        "codec" => "codec = Json",
        "content_type" => "content_type = \"application/vnd.shop.order+json\"",
        "upcasts" => "upcasts(OrderV1)",
        "partition_key" => "partition_key = \"id\"",
        "crate" => "crate = \"switchboard\"",
        flag => flag,
    }
}

/// Its letters, for what has the right ones in a wrong order.
fn sorted(name: &str) -> Vec<u8> {
    let mut letters = name.as_bytes().to_vec();
    letters.sort_unstable();
    letters
}

/// How many letters have to be added, removed or exchanged (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let nearest = |name| Place::Struct.nearest(name);
        assert_eq!(nearest("exchnage"), Some("exchange"));
        assert_eq!(nearest("kye"), Some("key"));
        assert_eq!(nearest("keys"), Some("key"));
        assert_eq!(nearest("content-type"), Some("content_type"));
        assert_eq!(nearest("queue"), None);
    }
}
