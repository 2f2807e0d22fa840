//! Nodes that all see and hear one another.

use clarion_protocol::http::Audience;

use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_its_audience_wherever_it_is_pushed_owned_and_read() {
    let world = World::of(&ABC).await;
    for owner in ABC {
        let terminal = terminal_of(owner, &ABC);
        let news = topic_of(owner, &ABC);
        for (at, reader) in ABC.iter().enumerate() {
            let pusher = ABC[(at + 1) % 3];
            let (mut link, opened) = world.node(reader).open_in(terminal, &[news]).await;
            link.settle().await;
            for (audience, log) in [
                (to_terminal(terminal), "terminal".to_owned()),
                (to_topic(news), format!("topic:{news}")),
                (Audience::All, "broadcast".to_owned()),
            ] {
                let text = format!("{log} of {owner} at {reader}");
                world.node(pusher).accepted(audience, &text).await;
                let got = loop {
                    let got = link.deliver().await.pop().unwrap();
                    link.ack(got.log, got.offset).await;
                    // What the former session on another node acknowledged last may come again.
                    if got.text == text {
                        break got;
                    }
                };
                assert_eq!(got.log, alias(&opened, &log));
            }
            link.cut().await;
        }
    }
}
