//! Tells the operator when something changes at the server, so that it need not ask again and again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use cachecluster_contract::news::{News, PATIENCE_MS, Question};
use cachecluster_contract::ports::NEWS_PATH;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::board::Board;

/// How many may listen at the same time: the operator's replicas, those of before an upgrade, and some who are curious.
const SEATS: usize = 16;
/// How long a listener waits for news.
const PATIENCE: Duration = Duration::from_millis(PATIENCE_MS);

struct Room {
    board: Board,
    seats: Semaphore,
    ended: CancellationToken,
}

/// The route at which the operator listens. Nobody is kept waiting once `ended`.
pub fn routes(board: &Board, ended: &CancellationToken) -> Router {
    let room = Room {
        board: board.clone(),
        seats: Semaphore::new(SEATS),
        ended: ended.clone(),
    };
    Router::new()
        .route(NEWS_PATH, get(news))
        .with_state(Arc::new(room))
}

async fn news(
    State(room): State<Arc<Room>>,
    Query(question): Query<Question>,
) -> Result<Json<News>, StatusCode> {
    let _seat = room
        .seats
        .try_acquire()
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let mut news = room.board.news();
    tokio::select! {
        // The board keeps the sender, so that the channel does not close.
        _ = news.wait_for(|number| Some(*number) != question.after) => {}
        () = tokio::time::sleep(PATIENCE) => {}
        () = room.ended.cancelled() => {}
    }
    let number = *news.borrow();
    Ok(Json(News { number }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Phase;

    fn room() -> Arc<Room> {
        Arc::new(Room {
            board: Board::new(),
            seats: Semaphore::new(1),
            ended: CancellationToken::new(),
        })
    }

    fn ask(
        room: &Arc<Room>,
        after: Option<u64>,
    ) -> impl Future<Output = Result<u64, StatusCode>> + use<> {
        let asked = news(State(room.clone()), Query(Question { after }));
        async move { asked.await.map(|news| news.number) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_with_the_next_change_or_after_a_while() {
        let room = room();
        let number = ask(&room, None).await.unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(ask(&room, Some(number)).await, Ok(number));
        assert_eq!(started.elapsed(), PATIENCE);

        let asked = tokio::spawn(ask(&room, Some(number)));
        tokio::task::yield_now().await;
        assert_eq!(
            ask(&room, None).await,
            Err(StatusCode::SERVICE_UNAVAILABLE),
            "there is one seat"
        );
        room.board.enter(Phase::Holding);
        assert_eq!(asked.await.unwrap(), Ok(number + 1));
        // The same again is no news; what was missed is told at once.
        room.board.enter(Phase::Holding);
        assert_eq!(ask(&room, Some(number)).await, Ok(number + 1));
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_agent_that_ends() {
        let room = room();
        let number = ask(&room, None).await.unwrap();
        let asked = tokio::spawn(ask(&room, Some(number)));
        tokio::task::yield_now().await;
        room.ended.cancel();
        let started = tokio::time::Instant::now();
        assert_eq!(asked.await.unwrap(), Ok(number));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
