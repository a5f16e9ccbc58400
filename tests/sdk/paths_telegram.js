// grammY, unmodified, as an agent: only its API root and token are other. Prints what it saw, as JSON.
const { Bot, InputFile, InlineKeyboard } = require('grammy');
const said = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const apiRoot = said.base + '/sdk/telegram';
const bot = new Bot(said.token, { client: { apiRoot } });
const seen = {};
const refused = async (name, call) => {
  try {
    await call();
    seen[name] = 'no error';
  } catch (e) {
    seen[name] = [e.name, e.error_code, e.description, e.parameters?.retry_after ?? null];
  }
};
(async () => {
  await bot.init();
  seen.me = bot.botInfo.username;
  seen.webhook = [await bot.api.setWebhook('https://agent.example/telegram'), await bot.api.deleteWebhook()];
  seen.text = (await bot.api.sendMessage(-1001, 'grüße & more')).message_id;
  const reply_markup = new InlineKeyboard().text('Yes', 'y');
  seen.keyboard = (await bot.api.sendMessage(-1001, 'well?', { reply_markup })).reply_markup.inline_keyboard[0][0].callback_data;
  seen.document = (await bot.api.sendDocument(-1001, new InputFile(Buffer.from('file content'), 'a.txt'))).document.file_id;
  const file = await bot.api.getFile('FILE-1');
  const answer = await fetch(`${apiRoot}/file/bot${said.token}/${file.file_path}`);
  seen.downloaded = Buffer.from(await answer.arrayBuffer()).toString('hex');
  await refused('blocked', () => bot.api.sendMessage(666, 'hi'));
  await refused('log_out', () => bot.api.logOut());
  await refused('unknown', () => bot.api.raw.notAMethod({}));
  await refused('limited', () => bot.api.sendMessage(429, 'hi'));
  console.log(JSON.stringify(seen));
})();
