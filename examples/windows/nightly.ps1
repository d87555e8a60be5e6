<#
.SYNOPSIS
    A night's work out of a database: export what is new, check the sign-in, transcribe, mail.
.DESCRIPTION
    1. tell the database what it was not told yet, export what is new as a manifest,
    2. look whether the run would work: AWS sign-in, models, devices, space,
    3. transcribe until the morning,
    and then act on the exit code, which is also this script's own. A row that makes no entry, or a
    recording that is missing, holds up no other: it is told at the end. What failed is told once,
    not every night. What is to be done is mailed
    where -MailTo and -SmtpServer are given, and is in nightly-report.txt either way.

    What is secret comes from the environment of the task, or from nightly-env.ps1 beside this file,
    which nobody else may read:

        $env:AUDIO_BATCH_DATABASE_URL = 'postgresql://transcriber:secret@db.example.org/media'
        $env:AUDIO_BATCH_RESULTS_DB = $env:AUDIO_BATCH_DATABASE_URL

    For Windows PowerShell 5.1 and PowerShell 7. Every night at 22:30:

        audio-batch schedule install --at 22:30 -- nightly.ps1
.PARAMETER More
    Flags of `audio-batch run`, as: -More '--where', 'kind=audio'
#>
param(
    [string] $Manifest = (Join-Path $PSScriptRoot 'night.jsonl'),
    [string] $Output = (Join-Path $PSScriptRoot 'transcripts'),
    [string] $Log = (Join-Path $PSScriptRoot 'nightly.log'),
    [string] $Report = (Join-Path $PSScriptRoot 'nightly-report.txt'),
    [string] $Query = (Join-Path $PSScriptRoot 'nightly.sql'),
    [string] $Columns = 'id=uuid,uri=s3_key,name=title',
    [string] $Prefix = 's3://my-bucket/',
    [string] $Until = '06:00',
    [string] $Timeout = '2h',
    [string] $MailTo = '',
    [string] $MailFrom = 'audio-batch@example.org',
    [string] $SmtpServer = '',
    [string[]] $More = @()
)

Set-StrictMode -Version 2
# 'Stop' would end this script at the first line that a program writes to its standard error.
$ErrorActionPreference = 'Continue'
$env:PYTHONUTF8 = '1'
# A virtual environment beside this file goes before the rest of PATH.
$env:PATH = (Join-Path $PSScriptRoot 'venv\Scripts') + [IO.Path]::PathSeparator + $env:PATH
Set-Location -LiteralPath $PSScriptRoot
$secrets = Join-Path $PSScriptRoot 'nightly-env.ps1'
if (Test-Path -LiteralPath $secrets) { . $secrets }
if (Test-Path -LiteralPath $Report) { Remove-Item -LiteralPath $Report }

function Write-Log([string] $Text) {
    Add-Content -LiteralPath $Log -Value $Text -Encoding UTF8
}

# Runs audio-batch with these arguments and keeps what it says; its exit code is in $LASTEXITCODE.
function Invoke-AudioBatch([string[]] $Arguments) {
    $script:talk = @(& audio-batch @Arguments 2>&1 | ForEach-Object { "$_" })
}

# Says what is to be done, mails it, and ends with the code.
function Complete-Night([int] $Code, [string] $Subject) {
    $text = @($Subject) + $script:talk
    if ($script:rows) { $text += @('Rows of the database that make no entry:') + $script:rows }
    $text += "The whole log: $Log"
    Set-Content -LiteralPath $Report -Value $text -Encoding UTF8
    $text | ForEach-Object { Write-Output $_ }
    if ($MailTo -and $SmtpServer) {
        Send-MailMessage -To $MailTo -From $MailFrom -SmtpServer $SmtpServer -Encoding UTF8 `
            -Subject "audio-batch: $Subject" -Body ($text -join "`r`n") -WarningAction SilentlyContinue
    }
    exit $Code
}

# Ends a night that has nothing else to tell.
function Complete-Quietly([int] $Code) {
    if (-not $script:rows) { exit $Code }
    $script:talk = @()
    if ($Code -eq 0) { $Code = 3 }
    Complete-Night $Code 'Rows of the database cannot be used; all others went their way.'
}

$talk = @()
$rows = @() # those of the database that make no entry
Write-Log "==== $(Get-Date -Format s)"
if (-not (Get-Command audio-batch -ErrorAction SilentlyContinue)) {
    Complete-Night 5 'There is no audio-batch on this PATH.'
}

# ---- Step 1. What the database was not told last night it would offer, or hold back, for ever.
# Before the first night there is no table and no run; where it is down, the export says so.
$fresh = Join-Path $PSScriptRoot 'night-new.jsonl'
$unfinished = Join-Path $PSScriptRoot 'nightly.unfinished'
if ($env:AUDIO_BATCH_RESULTS_DB) {
    Invoke-AudioBatch @('results', 'create')
    $talk | ForEach-Object { Write-Log $_ }
    Invoke-AudioBatch @('results', 'push', $Output)
    $talk | ForEach-Object { Write-Log $_ }
}
Invoke-AudioBatch @('manifest', 'from-sql', '--query-file', $Query, '--map', $Columns,
    '--prefix', $Prefix, '--skip-invalid', '-o', $fresh)
$code = $LASTEXITCODE
$talk | ForEach-Object { Write-Log $_ }
# 3: rows that make no entry were left out, the others are written.
if ($code -eq 3) { $rows = $talk }
if ($code -ne 0 -and $code -ne 3) { Complete-Night $code 'The database gave no manifest.' }
if ((Get-Item -LiteralPath $fresh).Length -gt 0) {
    Move-Item -LiteralPath $fresh -Destination $Manifest -Force
} elseif ((Test-Path -LiteralPath $unfinished) -and (Test-Path -LiteralPath $Manifest)) {
    Write-Log "Nothing is new, and the last night's run goes on."
} else {
    Write-Log 'Nothing is new.'
    Complete-Quietly 0
}

# ---- Step 2. With the same flags as the run.
$look = @('doctor', $Manifest, '-o', $Output, '--allow-missing') + $More
Invoke-AudioBatch $look
$code = $LASTEXITCODE
$talk | ForEach-Object { Write-Log $_ }
if ($code -ne 0) { Complete-Night $code 'The run would fail; nothing was begun.' }

# ---- Step 3. The log has all of it, what is said besides is short. The file is there until a
# night's run has come to its end.
Set-Content -LiteralPath $unfinished -Value 'unfinished'
$run = @('run', $Manifest, '-o', $Output, '-y', '--until', $Until, '--timeout', $Timeout,
    '--allow-missing', '--quiet', '--log-file', $Log) + $More
Invoke-AudioBatch $run
$code = $LASTEXITCODE
if ($code -eq 0 -or $code -eq 3) { Remove-Item -LiteralPath $unfinished }

switch ($code) {
    0 { Write-Log 'Every recording is done.' }
    2 { Complete-Night $code 'A flag or a setting is wrong; nothing was begun.' }
    3 {
        Invoke-AudioBatch @('status', $Output, '--new-failures')
        if ($LASTEXITCODE -ne 0) {
            Complete-Night $code 'Some recordings failed, the others are done.'
        }
        Write-Log 'No new failures; those from before: audio-batch status --failed'
    }
    4 { Complete-Night $code "The manifest $Manifest is not valid; nothing was begun." }
    5 { Complete-Night $code 'A model, a device, a sign-in or space is missing.' }
    11 { Complete-Night $code "Another run is at work in $Output; this one did nothing." }
    130 { Write-Log 'The time was up, or the run was stopped. The next night goes on there.' }
    default { Complete-Night $code "audio-batch failed with exit code $code." }
}
Complete-Quietly $code
