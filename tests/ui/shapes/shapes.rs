//! An event is a struct or an enum that owns its data.

use switchboard::Event;

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.submit")]
union Union {
    id: u64,
    bits: u64,
}

#[derive(Event)]
#[event(exchange = "order", key = "order.v1.submit")]
struct Borrowed<'a, 'b: 'a, T: 'b>
where
    T: Into<&'a str>,
{
    id: &'a str,
    region: &'b [T],
}

#[derive(Event)]
#[event(exchange = "order")]
enum BorrowedEvent<'a> {
    #[event(key = "order.v1.submit")]
    Submitted(&'a str),
}

fn main() {}
