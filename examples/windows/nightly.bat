@echo off
rem  A night's work out of a database:
rem    1. tell the database what it was not told yet, export what is new as a manifest,
rem    2. look whether the run would work: AWS sign-in, models, devices, space,
rem    3. transcribe until the morning,
rem  and then act on the exit code, which is also this file's own. What is to be done is in
rem  nightly-report.txt, and given to a program of yours that mails it (NOTIFY, below).
rem
rem  A row that makes no entry, or a recording that is missing, holds up no other: it is told at the
rem  end. What failed is told once, not every night.
rem
rem  Whatever follows the name goes to steps 2 and 3. Every night at 22:30:
rem
rem      audio-batch schedule install --at 22:30 -- nightly.bat
rem
rem  Change the settings below. What is secret goes into nightly-env.bat beside this file, which
rem  nobody else may read (a percent sign in a value is written twice there):
rem
rem      set "AUDIO_BATCH_DATABASE_URL=postgresql://transcriber:secret@db.example.org/media"
rem      set "AUDIO_BATCH_RESULTS_DB=postgresql://transcriber:secret@db.example.org/media"
rem
rem  With AUDIO_BATCH_RESULTS_DB each outcome is written back as it is there, and nightly.sql leaves
rem  out what is done. Before the first night of a profile with SSO: aws sso login --profile NAME.

setlocal EnableExtensions DisableDelayedExpansion

rem  %~dp0 is the folder of this file, with a backslash at its end.
set "MANIFEST=%~dp0night.jsonl"
set "FRESH=%~dp0night-new.jsonl"
set "UNFINISHED=%~dp0nightly.unfinished"
set "OUTPUT=%~dp0transcripts"
set "LOG=%~dp0nightly.log"
set "REPORT=%~dp0nightly-report.txt"
set "TALK=%~dp0nightly-talk.txt"
set "ROWS=%~dp0nightly-rows.txt"
set "QUERY=%~dp0nightly.sql"
set "COLUMNS_OF=id=uuid,uri=s3_key,name=title"
set "PREFIX=s3://my-bucket/"
rem  Begin nothing that would not be done by then; the most that one recording may take.
set "UNTIL_TIME=06:00"
set "TIMEOUT_EACH=2h"
rem  A program that is called with the exit code and the report, where somebody has to do something:
rem  set "NOTIFY=C:\tools\mail.bat"

rem  "call" reads percent signs and carets once more, and a path with one would be another path.
set MANIFEST>"%TALK%"
for %%V in (OUTPUT LOG QUERY COLUMNS_OF PREFIX) do set %%V>>"%TALK%"
"%SystemRoot%\System32\find.exe" "%%" <"%TALK%" >nul
if not errorlevel 1 goto bad_name
"%SystemRoot%\System32\find.exe" "^" <"%TALK%" >nul
if not errorlevel 1 goto bad_name

rem  A virtual environment beside this file goes before the rest of PATH.
set "PATH=%~dp0venv\Scripts;%PATH%"
set "PYTHONUTF8=1"
chcp 65001 >nul
cd /d "%~dp0"
if exist "%~dp0nightly-env.bat" call "%~dp0nightly-env.bat"
if exist "%REPORT%" del "%REPORT%"
if exist "%ROWS%" del "%ROWS%"

echo ==== %DATE% %TIME% >>"%LOG%"
rem  "call", because some installers put a .bat of that name on PATH; without it this file would
rem  end there.
call audio-batch --version >"%TALK%" 2>&1
if not "%ERRORLEVEL%"=="0" goto not_found

rem  ---- Step 1. What the database was not told last night it would offer, or hold back, for ever.
rem  Before the first night there is no table and no run; where it is down, the export says so.
if not defined AUDIO_BATCH_RESULTS_DB goto export
call audio-batch results create >>"%LOG%" 2>&1
call audio-batch results push "%OUTPUT%" >>"%LOG%" 2>&1
:export
call audio-batch manifest from-sql --query-file "%QUERY%" --map "%COLUMNS_OF%" --prefix "%PREFIX%" --skip-invalid -o "%FRESH%" >"%TALK%" 2>&1
set "CODE=%ERRORLEVEL%"
type "%TALK%" >>"%LOG%"
rem  3: rows that make no entry were left out, the others are written.
if "%CODE%"=="3" copy /y "%TALK%" "%ROWS%" >nul
if "%CODE%"=="3" set "CODE=0"
if not "%CODE%"=="0" goto no_manifest
for %%F in ("%FRESH%") do if "%%~zF"=="0" goto nothing_new
move /y "%FRESH%" "%MANIFEST%" >nul

:look

rem  ---- Step 2. With the same flags as the run.
call audio-batch doctor "%MANIFEST%" -o "%OUTPUT%" --allow-missing %* >"%TALK%" 2>&1
set "CODE=%ERRORLEVEL%"
type "%TALK%" >>"%LOG%"
if not "%CODE%"=="0" goto would_fail

rem  ---- Step 3. The log has all of it, what is said besides is short. The file is there until a
rem  night's run has come to its end.
echo unfinished>"%UNFINISHED%"
call audio-batch run "%MANIFEST%" -o "%OUTPUT%" -y --until %UNTIL_TIME% --timeout %TIMEOUT_EACH% --allow-missing --quiet --log-file "%LOG%" %* >"%TALK%" 2>&1
set "CODE=%ERRORLEVEL%"

if "%CODE%"=="0" del "%UNFINISHED%"
if "%CODE%"=="3" del "%UNFINISHED%"

rem  Compared as text: "if errorlevel 1" means "1 or more", and is false for the negative codes of
rem  programs that crash.
if "%CODE%"=="0" goto all_done
if "%CODE%"=="2" goto usage
if "%CODE%"=="3" goto some_failed
if "%CODE%"=="4" goto bad_manifest
if "%CODE%"=="5" goto environment
if "%CODE%"=="11" goto locked
if "%CODE%"=="130" goto interrupted
goto internal

:all_done
echo Every recording is done.>>"%LOG%"
goto quiet

:nothing_new
if exist "%UNFINISHED%" if exist "%MANIFEST%" goto unfinished
echo Nothing is new.>>"%LOG%"
goto quiet

:unfinished
echo Nothing is new, and the last night's run goes on.>>"%LOG%"
goto look

:bad_name
set "CODE=2"
echo A name above or this file's folder holds a percent sign or a caret, which cmd changes: choose another.
echo A name above or this file's folder holds a percent sign or a caret, which cmd changes: choose another.>"%REPORT%"
goto leave

:interrupted
echo The time was up, or the run was stopped. The next night goes on there.>>"%LOG%"
goto quiet

:some_failed
call audio-batch status "%OUTPUT%" --new-failures >"%TALK%" 2>&1
if "%ERRORLEVEL%"=="0" goto old_failures
echo Some recordings failed, the others are done:>"%REPORT%"
goto tell

:old_failures
echo No new failures; those from before: audio-batch status --failed>>"%LOG%"
goto quiet

:locked
echo Another run is at work in "%OUTPUT%": this one did nothing.>"%REPORT%"
goto tell

:usage
echo A flag or a setting is wrong; nothing was begun.>"%REPORT%"
goto tell

:bad_manifest
echo The manifest "%MANIFEST%" is not valid; nothing was begun.>"%REPORT%"
goto tell

:environment
echo A model, a device, a sign-in or space is missing.>"%REPORT%"
goto tell

:no_manifest
echo The database gave no manifest.>"%REPORT%"
goto tell

:would_fail
echo The run would fail; nothing was begun.>"%REPORT%"
goto tell

:not_found
echo audio-batch cannot be started. Install it, or make a virtual environment in "%~dp0venv".>"%REPORT%"
set "CODE=5"
goto tell

:quiet
if not exist "%ROWS%" goto leave
if "%CODE%"=="0" set "CODE=3"
echo Rows of the database cannot be used; all others went their way.>"%REPORT%"
echo.>"%TALK%"
goto tell

:internal
echo audio-batch failed with exit code %CODE%.>"%REPORT%"

:tell
type "%TALK%" >>"%REPORT%"
if exist "%ROWS%" echo Rows of the database that make no entry:>>"%REPORT%"
if exist "%ROWS%" type "%ROWS%" >>"%REPORT%"
echo See the end of "%LOG%".>>"%REPORT%"
type "%REPORT%"
if defined NOTIFY call "%NOTIFY%" %CODE% "%REPORT%"

:leave
endlocal & exit /b %CODE%
