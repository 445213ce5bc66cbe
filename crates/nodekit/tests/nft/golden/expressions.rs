//! Each kind of expression.

mod connection;
mod decision;
mod dynset;
mod header;
mod meta;
mod nat;

use nodekit::nft::{Batch, Chain, Expr, Family, Register, Rule, Table, Value, Verdict};

const R0: Register = Register::word(0);
/// Where nft itself puts a second value.
const R4: Register = Register::word(4);

fn table(family: Family) -> Batch {
    let mut batch = Batch::new(family, "t");
    batch.add_table(0, &Table::default());
    batch
}

fn chain(batch: &mut Batch, name: &str, rules: Vec<Vec<Expr>>) {
    batch.add_chain(0, &Chain::regular(name));
    for exprs in rules {
        batch.add_rule(0, &Rule::new(name, exprs));
    }
}

fn accept() -> Expr {
    Expr::Verdict(Verdict::Accept)
}

fn immediate(bytes: &[u8], to: Register) -> Expr {
    let value = Value::new(bytes);
    Expr::Immediate { value, to }
}

/// `meta l4proto tcp` before the others.
fn tcp(others: &[Expr]) -> Vec<Expr> {
    let tcp = [Expr::l4proto(R0), Expr::equal(R0, Value::new(&[6]))];
    [&tcp[..], others].concat()
}
