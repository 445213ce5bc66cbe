//! The list as a table, with columns as wide as they need to be.

use super::Pod;

const HEADINGS: [&str; 6] = [
    "NETWORK",
    "CONTAINER",
    "IFNAME",
    "INTERFACE",
    "ADDRESSES",
    "PORTS",
];

pub(super) fn render(pods: &[Pod]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(pods.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..HEADINGS.len())
        .map(|column| width(column).unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(pod: &Pod) -> [String; 6] {
    let or_none = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
    let ports: Vec<_> = pod.ports.iter().map(ToString::to_string).collect();
    [
        pod.network.clone(),
        pod.container_id.clone(),
        pod.ifname.clone(),
        or_none(pod.interface.clone().unwrap_or_default()),
        or_none(addresses.join(",")),
        or_none(ports.join(",")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let pod = Pod {
            network: "net".to_owned(),
            container_id: "a-long-container-id".to_owned(),
            ifname: "eth0".to_owned(),
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd01::2".parse().unwrap()],
            interface: None,
            ports: Vec::new(),
        };
        assert_eq!(
            render(&[pod]),
            "NETWORK  CONTAINER            IFNAME  INTERFACE  ADDRESSES         PORTS\n\
             net      a-long-container-id  eth0    -          10.1.0.2,fd01::2  -\n"
        );
    }
}
