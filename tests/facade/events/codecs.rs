//! How payloads are written and read.

use serde::{Deserialize, Serialize};
use switchboard::{BoxError, Bytes, Codec, Error, ErrorKind, Event, RawPayload};

use super::{delivery, message, round_trip, text, unreadable};

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(
    exchange = "order",
    key = "order.v1.submit",
    content_type = "application/vnd.shop.order+json; v=1"
)]
struct Order {
    id: u64,
}

#[test]
fn a_content_type_takes_the_place_of_the_codecs() {
    let content_type = "application/vnd.shop.order+json; v=1";
    assert_eq!(Order::ROUTES[0].content_type, content_type);
    assert_eq!(message(Order { id: 1 }).content_type(), content_type);
    assert_eq!(round_trip(&Order { id: 1 }), Order { id: 1 });
}

#[cfg(feature = "msgpack")]
#[test]
fn message_pack_writes_names_of_fields() {
    #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
    #[event(exchange = "batch", key = "batch.v1.create", codec = MessagePack)]
    struct Batch {
        sku: String,
        eta: Option<u32>,
        lines: Vec<(i64, f64)>,
    }
    let batch = Batch {
        sku: "lamp".to_owned(),
        eta: None,
        lines: vec![(i64::MIN, 0.1)],
    };
    assert_eq!(Batch::ROUTES[0].content_type, "application/msgpack");
    assert_eq!(message(&batch).content_type(), "application/msgpack");
    assert_eq!(&message(&batch).payload()[..5], b"\x83\xa3sku");
    assert_eq!(round_trip(&batch), batch);
}

#[cfg(feature = "cbor")]
#[test]
fn cbor_writes_names_of_fields() {
    #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
    #[event(exchange = "batch", key = "batch.v1.create", codec = Cbor)]
    struct Batch {
        sku: String,
        lines: Vec<(u64, f64)>,
    }
    let batch = Batch {
        sku: "lamp".to_owned(),
        lines: vec![(u64::MAX, 0.1)],
    };
    assert_eq!(Batch::ROUTES[0].content_type, "application/cbor");
    assert_eq!(&message(&batch).payload()[..5], b"\xa2\x63sku");
    assert_eq!(round_trip(&batch), batch);
}

#[derive(Debug, PartialEq, Event)]
#[event(exchange = "order", key = "order.photo", codec = Raw)]
struct Photo {
    jpeg: Bytes,
}

#[test]
fn raw_is_the_bytes_of_the_only_field() {
    let photo = Photo {
        jpeg: Bytes::from_static(b"\xff\xd8\xff"),
    };
    assert_eq!(&message(&photo).payload()[..], b"\xff\xd8\xff");
    assert_eq!(message(&photo).content_type(), "application/octet-stream");
    assert_eq!(round_trip(&photo), photo);
    // Nothing is copied on the way.
    assert_eq!(message(&photo).payload().as_ptr(), photo.jpeg.as_ptr());
}

#[derive(Debug, PartialEq, Event)]
#[event(exchange = "order", key = "order.note", codec = Raw, content_type = "text/plain")]
struct Note<T>(T);

#[test]
fn raw_text_is_checked_when_read() {
    assert_eq!(text(Note("größe".to_owned())), "größe");
    assert_eq!(
        message(Note("größe".to_owned())).content_type(),
        "text/plain"
    );
    let error = unreadable::<Note<String>>(&delivery("order", "order.note", &b"\xff"[..]));
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert_eq!(round_trip(&Note(vec![255_u8])), Note(vec![255]));
}

#[derive(Debug, PartialEq, Event)]
#[event(exchange = "order", key = "order.count", codec = switchboard::Raw)]
struct Count {
    number: u64,
}

impl RawPayload for Count {
    fn to_payload(&self) -> Bytes {
        self.number.to_string().into()
    }

    fn from_payload(payload: &Bytes) -> Result<Self, BoxError> {
        let number = std::str::from_utf8(payload)?.parse()?;
        Ok(Self { number })
    }
}

#[test]
fn a_type_can_be_its_own_payload_in_its_own_way() {
    assert_eq!(text(Count { number: 7 }), "7");
    assert_eq!(round_trip(&Count { number: 7 }), Count { number: 7 });
    let error = unreadable::<Count>(&delivery("order", "order.count", "seven"));
    assert_eq!(error.kind(), ErrorKind::Decode);
}

/// Fields separated by semicolons.
struct Semicolons;

impl Codec<(u64, String)> for Semicolons {
    const CONTENT_TYPE: &'static str = "text/x-semicolons";

    fn encode((id, name): &(u64, String)) -> Result<Bytes, Error> {
        Ok(format!("{id};{name}").into())
    }

    fn decode(payload: &Bytes) -> Result<(u64, String), Error> {
        let wrong = || Error::new(ErrorKind::Decode, "not two fields");
        let text = std::str::from_utf8(payload).map_err(|_| wrong())?;
        let (id, name) = text.split_once(';').ok_or_else(wrong)?;
        Ok((id.parse().map_err(|_| wrong())?, name.to_owned()))
    }
}

#[derive(Debug, PartialEq, Event)]
#[event(exchange = "legacy", codec = Semicolons)]
enum Legacy {
    #[event(key = "legacy.order")]
    Order((u64, String)),
    #[event(key = "legacy.note", codec = Raw)]
    Note(String),
    #[event(key = "legacy.count", codec = Json)]
    Count(u64),
}

#[test]
fn a_codec_of_ones_own_is_named_by_its_path() {
    let order = Legacy::Order((7, "lamp".to_owned()));
    assert_eq!(text(&order), "7;lamp");
    assert_eq!(message(&order).content_type(), "text/x-semicolons");
    assert_eq!(round_trip(&order), order);
}

#[test]
fn a_variant_can_have_a_codec_of_its_own() {
    assert_eq!(text(Legacy::Note("lamp".to_owned())), "lamp");
    assert_eq!(text(Legacy::Count(7)), "7");
    let types: Vec<_> = Legacy::ROUTES
        .iter()
        .map(|route| route.content_type)
        .collect();
    assert_eq!(
        types,
        [
            "text/x-semicolons",
            "application/octet-stream",
            "application/json"
        ]
    );
}
