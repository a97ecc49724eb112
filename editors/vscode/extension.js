// Starts `rescompile lsp` and connects it with the specs that are open. Everything else is in the server.

const { window, workspace, commands } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

async function start() {
  const [command, ...args] = workspace.getConfiguration("rescompile").get("command");
  client = new LanguageClient(
    "rescompile",
    "rescompile",
    { command, args },
    { documentSelector: [{ language: "rescompile" }, { language: "yaml" }] },
  );
  try {
    await client.start();
  } catch (error) {
    window.showErrorMessage(
      `'${command}' cannot be started (${error.message ?? error}). Install it with: pip install 'rescompile[lsp]', ` +
        "or set rescompile.command to where it is.",
    );
  }
}

async function stop() {
  if (client && client.needsStop()) await client.stop();
}

async function activate(context) {
  const restart = async () => {
    await stop();
    await start();
  };
  context.subscriptions.push(commands.registerCommand("rescompile.restart", restart));
  context.subscriptions.push(
    workspace.onDidChangeConfiguration((event) => event.affectsConfiguration("rescompile.command") && restart()),
  );
  await start();
}

module.exports = { activate, deactivate: stop };
