// What a live run tells: one stream of events a run, ended when the page is left.

export function follow(run, onState) {
  const source = new EventSource(`/api/runs/${run}/events`);
  source.addEventListener("state", (event) => onState(JSON.parse(event.data)));
  return () => source.close();
}
