// The peer: Slack's own SDK as its documentation sets it up, with a listener that does nothing and no storage.
// Bolt knows one signing secret, so it gets one installation's requests.
import bolt from "@slack/bolt";

const { App, HTTPReceiver, LogLevel } = bolt;
const { PORT, SIGNING_SECRET, INGRESS_PATH } = process.env;

const receiver = new HTTPReceiver({ signingSecret: SIGNING_SECRET, endpoints: INGRESS_PATH, logLevel: LogLevel.WARN });
const app = new App({
  receiver,
  logLevel: LogLevel.WARN,
  // Answers from memory: a `token` would have Bolt ask slack.com at its start.
  authorize: async () => ({ botToken: "xoxb-bench", botId: "B07BENCHBOT", botUserId: "U07BENCHBOT" }),
});
app.message(async () => {});

await app.start({ port: Number(PORT), host: "127.0.0.1" });
console.log(`listening public=127.0.0.1:${PORT}`);
