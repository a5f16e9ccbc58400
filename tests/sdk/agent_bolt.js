// A Slack app as anybody would write it, on the official Bolt for JavaScript, unmodified.
//
// Takes {"token", "secret", "api"} as its argument. Says {"ready": PORT} when it listens and one line for everything that a
// listener of it heard, which is only what Bolt's own verification let through.

const { App } = require('@slack/bolt');

const said = JSON.parse(process.argv[2]);
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

(async () => {
  const app = new App({ token: said.token, signingSecret: said.secret, clientOptions: { slackApiUrl: said.api }, logLevel: 'error' });
  app.message(async ({ message, context, say }) => {
    if (said.answers) await say(`you said ${message.text}`);
    tell({ heard: 'message', text: message.text, repeat: context.retryNum ?? null });
  });
  app.command('/ask', async ({ command, ack, respond }) => {
    await ack('this never reaches Slack');
    if (command.response_url) await respond({ text: 'as you ask', response_type: 'ephemeral' });
    tell({ heard: 'command', text: command.text });
  });
  app.action('simulated', async ({ action, ack, respond, body }) => {
    await ack();
    if (body.response_url) await respond('seen');
    tell({ heard: 'action', text: action.value });
  });
  app.view('ask', async ({ ack, view }) => {
    await ack({ response_action: 'errors', errors: { b1: `not ${view.private_metadata}` } });
    tell({ heard: 'view', text: view.private_metadata });
  });
  app.options('menu', async ({ ack, options }) => {
    await ack({ options: [{ text: { type: 'plain_text', text: options.value }, value: 'v1' }] });
    tell({ heard: 'options', text: options.value });
  });
  const server = await app.start({ port: 0, host: '127.0.0.1' });
  tell({ ready: server.address().port });
})();
