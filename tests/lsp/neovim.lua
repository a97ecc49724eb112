-- What a user does in Neovim, without a screen: opens a spec with a mistake, looks, completes, takes the fix, renames, saves.
-- Arguments of the environment: COMMAND (JSON) starts the server, SPEC is the file, OUT gets what was seen, as JSON.
local seen = {}

local function wait(what, test)
  assert(vim.wait(30000, test, 20), "no " .. what)
end

vim.lsp.config("rescompile", { cmd = vim.json.decode(vim.env.COMMAND), filetypes = { "yaml" }, root_markers = { ".git" } })
vim.lsp.enable("rescompile")
vim.cmd("filetype on")

local function run()
  vim.cmd.edit(vim.env.SPEC)
  vim.bo.filetype = "yaml"
  local buffer = vim.api.nvim_get_current_buf()
  wait("client", function() return #vim.lsp.get_clients({ bufnr = buffer }) == 1 end)
  wait("diagnostics", function() return #vim.diagnostic.get(buffer) > 0 end)
  seen.diagnostics = vim.tbl_map(function(d)
    return { line = d.lnum, column = d.col, last = d.end_col, code = d.code, message = d.message }
  end, vim.diagnostic.get(buffer))

  local wrong = vim.diagnostic.get(buffer)[1]
  vim.api.nvim_win_set_cursor(0, { wrong.lnum + 1, wrong.col })
  vim.lsp.buf.code_action({ apply = true })
  wait("fix", function() return #vim.diagnostic.get(buffer) == 0 end)
  seen.fixed = vim.api.nvim_buf_get_lines(buffer, wrong.lnum, wrong.lnum + 1, false)[1]

  vim.lsp.inlay_hint.enable(true, { bufnr = buffer })
  wait("hints", function() return #vim.lsp.inlay_hint.get({ bufnr = buffer }) > 0 end)
  seen.hints = vim.tbl_map(function(h)
    return { line = h.inlay_hint.position.line, label = h.inlay_hint.label }
  end, vim.lsp.inlay_hint.get({ bufnr = buffer }))

  local client = vim.lsp.get_clients({ bufnr = buffer })[1]
  local function ask(method)
    local answer = client:request_sync(method, vim.lsp.util.make_position_params(0, client.offset_encoding), 30000, buffer)
    return answer and answer.result
  end
  vim.api.nvim_win_set_cursor(0, { 7, 34 })
  seen.completion = vim.tbl_map(function(item) return item.label end, ask("textDocument/completion"))
  vim.api.nvim_win_set_cursor(0, { 7, 6 })
  seen.hover = ask("textDocument/hover").contents.value

  vim.lsp.buf.rename("stage1")
  wait("rename", function() return vim.api.nvim_buf_get_lines(buffer, 6, 7, false)[1]:find("stage1") ~= nil end)
  seen.renamed = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
  vim.cmd("silent write")
end

local right, message = pcall(run)
seen.error = not right and message or nil
vim.fn.writefile({ vim.json.encode(seen) }, vim.env.OUT)
vim.cmd("qall!")
