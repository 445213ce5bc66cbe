//! One pod after the other, in turns.

use causeway_tests::figures::{Figures, Table};

use crate::Options;
use crate::contender::Contender;
use crate::network::{MASQUERADE, NETWORKS};
use crate::node::{Node, Pod};
use causeway_tests::bars::Bars;

/// Rounds that make the bridge, the tables and warm caches, and don't count.
const WARM: usize = 2;

/// What duplicate address detection makes of an ADD, in milliseconds.
const DETECTION: f64 = 60.0;

/// ADD and DEL in each configuration: ours, the reference's and the floor's.
pub(crate) fn configurations(options: &Options, bars: &mut Bars) -> anyhow::Result<()> {
    let contenders = [
        Contender::Ours(options.plugin.clone()),
        Contender::Reference(options.peers.clone()),
        Contender::Floor,
    ];
    let heads = ["ours", "p90", "reference", "p90", "floor", "p90"];
    let [a, b, c, d, e, f] = heads;
    let mut table = Table::new(["one pod at a time, ms", a, b, c, d, e, f]);
    for network in &NETWORKS {
        let nodes = contenders.each_ref().map(Node::new);
        let [ours, reference, floor] = nodes;
        let nodes = [ours?, reference?, floor?];
        for node in &nodes[..2] {
            node.keeps_its_word(network)?;
        }
        let mut figures: [[Figures; 3]; 2] = Default::default();
        for round in 0..options.rounds + WARM {
            for turn in (0..nodes.len()).map(|turn| (turn + round) % nodes.len()) {
                let (add, del) = nodes[turn].come_and_go(&Pod::new(round)?, network)?;
                if round >= WARM {
                    figures[0][turn].add(add);
                    figures[1][turn].add(del);
                }
            }
        }
        for node in &nodes {
            node.is_empty()?;
        }
        for (operation, [ours, theirs, floor]) in ["ADD", "DEL"].iter().zip(&mut figures) {
            let name = format!("{}: {operation}", network.name);
            match (*operation, network.add) {
                ("ADD", Some(limit)) => {
                    let ratio = ours.median() / theirs.median();
                    bars.at_most(format!("{name}, ours/reference"), ratio, limit);
                }
                ("ADD", None) => {
                    // A busy machine makes slow rounds too, but the floor's no fewer.
                    let slow = ours.share_from(DETECTION) - floor.share_from(DETECTION);
                    let what = format!("{name}, share of 60 ms and more, beyond the floor's");
                    bars.at_most(what, slow, 0.0);
                }
                _ => {
                    let ratio = ours.median() / floor.median();
                    bars.at_most(format!("{name}, ours/floor"), ratio, 1.3);
                }
            }
            let cell = |figures: &mut Figures, percent| figures.quantile(percent);
            table.row([
                name,
                cell(ours, 50),
                cell(ours, 90),
                cell(theirs, 50),
                cell(theirs, 90),
                cell(floor, 50),
                cell(floor, 90),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}

/// Whether time grows with the number of pods that a node has already.
pub(crate) fn reservations(options: &Options, bars: &mut Bars) -> anyhow::Result<()> {
    const NUMBERS: [u32; 2] = [10, 1000];
    let ours = Contender::Ours(options.plugin.clone());
    let mut nodes = Vec::new();
    for number in NUMBERS {
        let node = Node::new(&ours)?;
        node.come_and_go(&Pod::new(usize::MAX)?, &MASQUERADE)?;
        node.reserve(number)?;
        node.come_and_go(&Pod::new(usize::MAX)?, &MASQUERADE)?;
        nodes.push(node);
    }
    let mut figures: [[Figures; 2]; 2] = Default::default();
    for round in 0..options.rounds {
        for turn in (0..nodes.len()).map(|turn| (turn + round) % nodes.len()) {
            let (add, del) = nodes[turn].come_and_go(&Pod::new(round)?, &MASQUERADE)?;
            figures[turn][0].add(add);
            figures[turn][1].add(del);
        }
    }
    let mut table = Table::new(["ours, ipMasq, ms", "ADD", "p90", "DEL", "p90"]);
    for (number, [add, del]) in NUMBERS.iter().zip(&mut figures) {
        table.row([
            format!("beside {number} reservations"),
            add.quantile(50),
            add.quantile(90),
            del.quantile(50),
            del.quantile(90),
        ]);
    }
    println!("{table}");
    let [few, many] = &mut figures;
    for (name, (few, many)) in ["ADD", "DEL"].iter().zip(few.iter_mut().zip(many)) {
        let ratio = many.median() / few.median();
        bars.at_most(format!("{name} beside 1,000 reservations/10"), ratio, 1.2);
    }
    Ok(())
}
