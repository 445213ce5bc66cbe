//! iptables through its programs, both variants, each in a network namespace of its own.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

use nodekit::faulty::Faults;
use nodekit::netns::NetNs;
use nodekit::xtables::{Error, Family, Input, Table, Variant, Xtables};

/// Every variant and family, in a namespace of its own.
fn each(test: impl Fn(&Xtables) + Sync) {
    for variant in Variant::ALL {
        for family in [Family::Ip, Family::Ip6] {
            let netns = NetNs::anonymous().unwrap();
            let xtables = Xtables::of(family, variant).unwrap();
            netns.run(|| test(&xtables)).unwrap();
        }
    }
}

#[test]
fn what_is_restored_is_there_and_the_rest_stays() {
    each(|xtables| {
        assert_eq!(xtables.rules(Table::Nat, "MINE"), Ok(None));
        let mut input = Input::default();
        input.table(Table::Nat).chain("OTHER").chain("MINE");
        input.rule(["-A", "OTHER", "-j", "RETURN"]);
        input.rule([
            "-A",
            "MINE",
            "-m",
            "comment",
            "--comment",
            "all \"mine\"",
            "-j",
            "OTHER",
        ]);
        xtables.restore(&input.finish()).unwrap();
        xtables
            .restore("*nat\n:THIRD - [0:0]\n-I MINE -p tcp -j THIRD\nCOMMIT\n")
            .unwrap();
        let rules = xtables.rules(Table::Nat, "MINE").unwrap().unwrap();
        assert_eq!(
            rules,
            [
                "-A MINE -p tcp -j THIRD",
                "-A MINE -m comment --comment \"all \\\"mine\\\"\" -j OTHER",
            ]
        );
        let chains = xtables.chains(Table::Nat).unwrap();
        for chain in ["PREROUTING", "OTHER", "MINE", "THIRD"] {
            assert!(chains.iter().any(|found| found == chain), "{chains:?}");
        }
        let mut saved = Vec::new();
        xtables
            .save(None, &mut |line| saved.push(line.to_owned()))
            .unwrap();
        assert!(saved.contains(&"*nat".to_owned()) && saved.contains(&rules[0]));
    });
}

#[test]
fn a_refusal_names_the_line_and_changes_nothing() {
    each(|xtables| {
        let input = "*nat\n:MINE - [0:0]\n-A MINE -j RETURN\n-A MINE -p tcp --dport x\nCOMMIT\n";
        let error = xtables.restore(input).unwrap_err();
        assert_eq!(error.line(), Some(4), "{error}");
        assert!(
            matches!(&error, Error::Refused { code: Some(2), said, .. } if said.contains("`x'"))
        );
        assert_eq!(xtables.rules(Table::Nat, "MINE"), Ok(None));
        let error = xtables
            .restore("*nat\n-D INPUT -p tcp -j RETURN\nCOMMIT\n")
            .unwrap_err();
        assert_eq!(error.line(), Some(2), "{error}");
    });
}

/// The program has read the whole input by then.
#[test]
fn what_is_refused_at_its_end_is_not_taken_for_done() {
    each(|xtables| {
        let there = "*nat\n:MINE - [0:0]\n-A INPUT -j MINE\nCOMMIT\n";
        xtables.restore(there).unwrap();
        for refused in [
            // The chain is in use.
            "*nat\n-X MINE\nCOMMIT\n",
            "*filter\n:OTHER - [0:0]\nCOMMIT\n*nat\n-X MINE\nCOMMIT\n",
            "*nat\n-D INPUT -j MINE\n",
        ] {
            for error in [xtables.restore(refused), xtables.restore_early(refused)] {
                let error = error.unwrap_err();
                assert!(matches!(error, Error::Refused { .. }), "{error}");
            }
            assert_eq!(xtables.rules(Table::Nat, "MINE"), Ok(Some(Vec::new())));
        }
        let rules = xtables.rules(Table::Nat, "INPUT").unwrap().unwrap();
        assert_eq!(rules, ["-A INPUT -j MINE"]);
        let removed = "*nat\n-D INPUT -j MINE\n-X MINE\nCOMMIT\n";
        xtables.restore_early(removed).unwrap();
        assert_eq!(xtables.rules(Table::Nat, "MINE"), Ok(None));
    });
}

#[test]
fn the_variant_with_the_kubelets_hint_or_more_rules_is_this_nodes() {
    let hint = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
    let rule = "*filter\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n";
    for (nft, legacy, expected) in [
        ("", "", Variant::Nft),
        ("", rule, Variant::Legacy),
        (rule, rule, Variant::Nft),
        (rule, hint, Variant::Legacy),
        (hint, rule, Variant::Nft),
    ] {
        let netns = NetNs::anonymous().unwrap();
        let found = netns.run(|| {
            for (variant, input) in [(Variant::Nft, nft), (Variant::Legacy, legacy)] {
                if !input.is_empty() {
                    Xtables::of(Family::Ip6, variant)
                        .unwrap()
                        .restore(input)
                        .unwrap();
                }
            }
            Xtables::find(Family::Ip).unwrap()
        });
        assert_eq!(found.unwrap().variant(), expected, "{nft:?} {legacy:?}");
    }
}

#[test]
fn injected_faults_change_nothing() {
    let faults = Faults::default();
    let netns = NetNs::anonymous().unwrap();
    let xtables = Xtables::of(Family::Ip, Variant::Nft).unwrap();
    let xtables = xtables.with_faults(faults.clone());
    let input = "*nat\n:MINE - [0:0]\nCOMMIT\n";
    netns
        .run(|| {
            faults.fail_transaction(1, nodekit::Errno::ENOMEM);
            assert_eq!(xtables.restore(input).unwrap_err().line(), Some(1));
            assert_eq!(xtables.rules(Table::Nat, "MINE"), Ok(None));
            xtables.restore(input).unwrap();
            assert_eq!(xtables.rules(Table::Nat, "MINE"), Ok(Some(Vec::new())));
            faults.die_after(0);
            assert!(matches!(xtables.restore(input), Err(Error::NotRun { .. })));
            assert!(xtables.chains(Table::Nat).is_err());
        })
        .unwrap();
}
