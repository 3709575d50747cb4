//! Prints orders as JSON Lines: always the same ones, as many as are asked for.
//!
//! `cargo run -p shop --example orders -- 1000 > examples/shop/orders.jsonl` made the file of that name.

use std::{
    env,
    error::Error,
    io::{self, BufWriter, Write},
};

use fastrand::Rng;
use shop::{Order, OrderLine};

fn main() -> Result<(), Box<dyn Error>> {
    let count = env::args().nth(1).as_deref().unwrap_or("1000").parse()?;
    let mut out = BufWriter::new(io::stdout().lock());
    print(count, &mut out)?;
    Ok(out.flush()?)
}

pub(crate) fn print(count: u64, out: &mut impl Write) -> io::Result<()> {
    let mut random = Rng::with_seed(20_110_101);
    let mut id = 100_000;
    for _ in 0..count {
        // Some numbers are missing, as they are wherever a cart was given up.
        id += if random.u8(..100) < 7 {
            random.u64(2..9)
        } else {
            1
        };
        serde_json::to_writer(&mut *out, &order(id, &mut random))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Most people buy one or two things, and a few fill a lorry.
fn order(id: u64, random: &mut Rng) -> Order {
    let most = if random.u8(..100) < 4 { 24 } else { 4 };
    let lines = random.usize(1..=most).min(random.usize(1..=most));
    Order::new(id, (0..lines).map(|_| line(random)))
}

/// An item has one price, whoever buys it.
fn line(random: &mut Rng) -> OrderLine {
    let item = 1_000 + random.u64(..300).min(random.u64(..300));
    let mut catalogue = Rng::with_seed(item);
    let euros = match catalogue.u8(..10) {
        0..5 => catalogue.u32(1..20),
        5..9 => catalogue.u32(20..200),
        _ => catalogue.u32(200..2_500),
    };
    let cents = [0, 49, 50, 90, 95, 99][catalogue.usize(..6)];
    // One in twenty is a gift.
    let price = if random.u8(..20) == 0 {
        0.0
    } else {
        f64::from(euros * 100 + cents) / 100.0
    };
    let quantity = match random.u8(..100) {
        0..70 => 1,
        70..95 => random.u32(2..6),
        _ => random.u32(1..20) * 12,
    };
    OrderLine {
        id: item,
        quantity,
        price,
    }
}
