// @slack/web-api, unmodified, as an agent: only its base URL and token are other. Prints what it saw, as JSON.
const { WebClient } = require('@slack/web-api');
const said = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const options = { slackApiUrl: said.base + '/sdk/slack/api/', allowAbsoluteUrls: false, retryConfig: { retries: 0 },
  rejectRateLimitedCalls: true, logLevel: 'error' };
const client = new WebClient(said.token, options);
const seen = {};
const refused = async (name, call) => {
  try {
    await call();
    seen[name] = 'no error';
  } catch (e) {
    seen[name] = { kind: e.code, error: e.data?.error, code: e.data?.byoa?.code, retry_after: e.retryAfter };
  }
};
(async () => {
  const auth = await client.auth.test();
  seen.auth = [auth.bot_id, auth.user_id];
  seen.text = (await client.chat.postMessage({ channel: 'C0HELP', text: 'grüße & more' })).ts;
  const blocks = [{ type: 'section', text: { type: 'mrkdwn', text: '*hi*' } }];
  seen.blocks = (await client.chat.postMessage({ channel: 'C0HELP', text: 'hi', blocks })).message.blocks;
  seen.pages = [];
  for await (const page of client.paginate('conversations.list', { limit: 2 })) {
    seen.pages.push(...page.channels.map((c) => c.id));
  }
  const up = await client.filesUploadV2({ channel_id: 'C0HELP', filename: 'a.txt', content: 'file content' });
  seen.uploaded = up.files[0].files[0].id;
  await refused('provider', () => client.chat.postMessage({ channel: 'C0NONE', text: 'hi' }));
  await refused('revoke', () => client.auth.revoke());
  await refused('unknown', () => client.apiCall('chat.notAMethod'));
  await refused('limited', () => client.chat.postMessage({ channel: 'C0LIMIT', text: 'hi' }));
  console.log(JSON.stringify(seen));
})();
